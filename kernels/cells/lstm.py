"""Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

i, f, o = σ(z_i), σ(z_f), σ(z_o);   g = tanh(z_g);   c_t = f c_{t−1} + i g;   h_t = o tanh(c_t)
"""

from ..jit import formula
from ..pointwise import sigmoid, tanh
from .cell import Cell
from .noise import with_dropout, with_zoneout


@formula
def _forward(slots, previous, keep):
    """`keep` multiplies the candidate."""
    z_i, z_f, z_g, z_o = slots
    _, c = previous
    i, f, g, o = sigmoid(z_i), sigmoid(z_f), tanh(z_g), sigmoid(z_o)
    c = f * c + i * (g * keep)
    return (i, f, g, o), (o * tanh(c), c)


@formula
def _backward(kept, previous, d_state, keep):
    """By the chain rule, with σ′ = σ(1 − σ) and tanh′ = 1 − tanh²; dc arrives from step t+1 and through h_t."""
    i, f, g, o = kept
    c_previous = previous[1]
    candidate = g * keep
    tanh_c = tanh(f * c_previous + i * candidate)
    dh, dc = d_state
    dc = dc + dh * o * (1.0 - tanh_c * tanh_c)
    d_slots = (
        dc * candidate * i * (1.0 - i),
        dc * c_previous * f * (1.0 - f),
        dc * i * keep * (1.0 - g * g),
        dh * tanh_c * o * (1.0 - o),
    )
    return d_slots, (0.0, dc * f), ()  # h_{t−1} acts through the recurrent product alone


@formula
def lstm_forward(slots, previous, vectors, noise):
    return _forward(slots, previous, 1.0)


@formula
def lstm_backward(kept, previous, d_state, vectors, noise):
    return _backward(kept, previous, d_state, 1.0)


@formula
def dropout_forward(slots, previous, vectors, noise):
    return _forward(slots, previous, noise[0])


@formula
def dropout_backward(kept, previous, d_state, vectors, noise):
    return _backward(kept, previous, d_state, noise[0])


LSTM = Cell(
    name="lstm",
    slots=4,
    states=2,
    input_slots=(0, 1, 2, 3),
    recurrent_slots=(0, 1, 2, 3),
    forward=lstm_forward,
    backward=lstm_backward,
    gate_names=("i", "f", "g", "o"),
)

LSTM_DROPOUT = with_dropout(LSTM, dropout_forward, dropout_backward)
LSTM_ZONEOUT = with_zoneout(LSTM)
LSTM_DROPOUT_ZONEOUT = with_zoneout(LSTM_DROPOUT)
