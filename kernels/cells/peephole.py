"""The LSTM with peepholes (Gers & Schmidhuber 2000): its gates see the memory itself.

i, f = σ(z_i + p_i c_{t−1}), σ(z_f + p_f c_{t−1});   g = tanh(z_g);   c_t = f c_{t−1} + i g;   o = σ(z_o + p_o c_t);
h_t = o tanh(c_t), with p_i, p_f, p_o a number a unit.
"""

from ..jit import formula
from ..pointwise import sigmoid, tanh
from .cell import Cell
from .lstm import LSTM


@formula
def peephole_forward(slots, previous, vectors, noise):
    z_i, z_f, z_g, z_o = slots
    p_i, p_f, p_o = vectors
    _, c = previous
    i, f, g = sigmoid(z_i + p_i * c), sigmoid(z_f + p_f * c), tanh(z_g)
    c = f * c + i * g
    o = sigmoid(z_o + p_o * c)
    return (i, f, g, o), (o * tanh(c), c)


@formula
def peephole_backward(kept, previous, d_state, vectors, noise):
    """By the chain rule, as for the LSTM; c_t acts through the output gate, too, and c_{t−1} through the others."""
    i, f, g, o = kept
    p_i, p_f, p_o = vectors
    c_previous = previous[1]
    c = f * c_previous + i * g
    tanh_c = tanh(c)
    dh, dc = d_state
    dz_o = dh * tanh_c * o * (1.0 - o)
    dc = dc + dh * o * (1.0 - tanh_c * tanh_c) + dz_o * p_o
    dz_i = dc * g * i * (1.0 - i)
    dz_f = dc * c_previous * f * (1.0 - f)
    d_slots = (dz_i, dz_f, dc * i * (1.0 - g * g), dz_o)
    return d_slots, (0.0, dc * f + dz_i * p_i + dz_f * p_f), (dz_i * c_previous, dz_f * c_previous, dz_o * c)


PEEPHOLE_LSTM: Cell = LSTM._replace(
    name="peephole_lstm",
    forward=peephole_forward,
    backward=peephole_backward,
    vectors=(("peephole", 3),),
)
