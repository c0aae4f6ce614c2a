"""Gated recurrent unit with the reset gate before the recurrent product, as it was first published (Cho et al. 2014).

r, z = σ(z_r), σ(z_z);   n = tanh(z_n), with z_n = W_in x_t + b_in + W_hn (r h_{t−1}) + b_hn;
h_t = (1 − z) n + z h_{t−1}, the roles of z and 1 − z as in PyTorch. Keras: `reset_after=False`; ONNX:
`linear_before_reset=0`.
"""

from ..jit import formula
from ..pointwise import sigmoid, tanh
from .cell import Cell, Stage
from .noise import dropout, no_dropout, with_dropout, with_zoneout


@formula
def reset_forward(slots, previous, vectors, noise):
    """The gates, and r h_{t−1}."""
    z_n, z_r, z_z, unused = slots
    r = sigmoid(z_r)
    return (z_n, r, sigmoid(z_z), unused), (r * previous[0],)


@formula
def reset_backward(kept, previous, d_state, vectors, noise):
    """From the gradient of r h_{t−1} to those of r and of h_{t−1}."""
    dz_n, r, dz_z, unused = kept
    dh, d_reset = d_state
    return (dz_n, d_reset * previous[0] * r * (1.0 - r), dz_z, unused), (dh + d_reset * r,), ()


def _formulas(factor):
    """Forward and backward, with the candidate multiplied by `factor(noise)`."""

    @formula
    def candidate_forward(slots, previous, vectors, noise):
        z_n, r, z, unused = slots
        n = tanh(z_n)
        return (n, r, z, unused), ((1.0 - z) * (n * factor(noise)) + z * previous[0],)

    @formula
    def candidate_backward(kept, previous, d_state, vectors, noise):
        """By the chain rule; r waits in its slot for the other stage."""
        n, r, z, unused = kept
        dh = d_state[0]
        d_slots = (
            dh * (1.0 - z) * factor(noise) * (1.0 - n * n),
            r,
            dh * (previous[0] - n * factor(noise)) * z * (1.0 - z),
            unused,
        )
        return d_slots, (dh * z,), ()

    return candidate_forward, candidate_backward


candidate_forward, candidate_backward = _formulas(no_dropout)
GRU_RESET_BEFORE = Cell(
    name="gru_reset_before",
    slots=4,  # one of them unused, and zero
    states=1,
    input_slots=(1, 2, 0),  # PyTorch's r, z, n
    recurrent_slots=(1, 2, 0),
    forward=candidate_forward,
    backward=candidate_backward,
    gate_names=("n", "r", "z", ""),
    before=Stage(slots=(1, 2), forward=reset_forward, backward=reset_backward),
)

GRU_RESET_BEFORE_DROPOUT = with_dropout(GRU_RESET_BEFORE, *_formulas(dropout))
GRU_RESET_BEFORE_ZONEOUT = with_zoneout(GRU_RESET_BEFORE)
GRU_RESET_BEFORE_DROPOUT_ZONEOUT = with_zoneout(GRU_RESET_BEFORE_DROPOUT)
