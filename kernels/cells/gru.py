"""Gated recurrent unit (Cho et al. 2014) in PyTorch's form, with the reset gate after the recurrent product.

r, z = σ(z_r), σ(z_z);   n = tanh(n_x + r n_h);   h_t = (1 − z) n + z h_{t−1}
with n_x = W_in x_t + b_in and n_h = W_hn h_{t−1} + b_hn kept apart.
"""

from ..jit import formula
from ..pointwise import sigmoid, tanh
from .cell import Cell
from .noise import with_dropout, with_zoneout


@formula
def _forward(slots, previous, keep):
    """`keep` multiplies the candidate."""
    n_x, z_r, z_z, n_h = slots
    (h,) = previous
    r, z = sigmoid(z_r), sigmoid(z_z)
    n = tanh(n_x + r * n_h)
    return (n, r, z, n_h), ((1.0 - z) * (n * keep) + z * h,)


@formula
def _backward(kept, previous, d_state, keep):
    """By the chain rule; the recurrent product's share of n has the gradient r dn_x, as W_hn and b_hn see it."""
    n, r, z, n_h = kept
    (h_previous,) = previous
    (dh,) = d_state
    dn_x = dh * (1.0 - z) * keep * (1.0 - n * n)
    d_slots = (
        dn_x,
        dn_x * n_h * r * (1.0 - r),
        dh * (h_previous - n * keep) * z * (1.0 - z),
        dn_x * r,
    )
    return d_slots, (dh * z,), ()


@formula
def gru_forward(slots, previous, vectors, noise):
    return _forward(slots, previous, 1.0)


@formula
def gru_backward(kept, previous, d_state, vectors, noise):
    return _backward(kept, previous, d_state, 1.0)


@formula
def dropout_forward(slots, previous, vectors, noise):
    return _forward(slots, previous, noise[0])


@formula
def dropout_backward(kept, previous, d_state, vectors, noise):
    return _backward(kept, previous, d_state, noise[0])


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

GRU_DROPOUT = with_dropout(GRU, dropout_forward, dropout_backward)
GRU_ZONEOUT = with_zoneout(GRU)
GRU_DROPOUT_ZONEOUT = with_zoneout(GRU_DROPOUT)
