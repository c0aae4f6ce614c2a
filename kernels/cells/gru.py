"""Gated recurrent unit (Cho et al. 2014) in PyTorch's form, with the reset gate after the recurrent product.

r, z = σ(z_r), σ(z_z);   n = tanh(n_x + r n_h);   h_t = (1 − z) n + z h_{t−1}
with n_x = W_in x_t + b_in and n_h = W_hn h_{t−1} + b_hn kept apart.
"""

from ..jit import formula
from ..pointwise import sigmoid, tanh
from .cell import Cell
from .noise import dropout, no_dropout, with_dropout, with_zoneout


def _formulas(factor):
    """Forward and backward, with the candidate multiplied by `factor(noise)`."""

    @formula
    def gru_forward(slots, previous, vectors, noise):
        n_x, z_r, z_z, n_h = slots
        (h,) = previous
        r, z = sigmoid(z_r), sigmoid(z_z)
        n = tanh(n_x + r * n_h)
        return (n, r, z, n_h), ((1.0 - z) * (n * factor(noise)) + z * h,)

    @formula
    def gru_backward(kept, previous, d_state, vectors, noise):
        """By the chain rule; the recurrent product's share of n has the gradient r dn_x, as W_hn and b_hn see it."""
        n, r, z, n_h = kept
        (h_previous,) = previous
        (dh,) = d_state
        dn_x = dh * (1.0 - z) * factor(noise) * (1.0 - n * n)
        d_slots = (
            dn_x,
            dn_x * n_h * r * (1.0 - r),
            dh * (h_previous - n * factor(noise)) * z * (1.0 - z),
            dn_x * r,
        )
        return d_slots, (dh * z,), ()

    return gru_forward, gru_backward


gru_forward, gru_backward = _formulas(no_dropout)
GRU = Cell(
    name="gru",
    slots=4,
    states=1,
    input_slots=(1, 2, 0),  # PyTorch's r, z, n
    recurrent_slots=(1, 2, 3),
    forward=gru_forward,
    backward=gru_backward,
    gate_names=("n", "r", "z", ""),
)

GRU_DROPOUT = with_dropout(GRU, *_formulas(dropout))
GRU_ZONEOUT = with_zoneout(GRU)
GRU_DROPOUT_ZONEOUT = with_zoneout(GRU_DROPOUT)
