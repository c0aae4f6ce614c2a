"""The simple recurrent net (Elman 1990): h_t = φ(z), z = W_ih x_t + W_hh h_{t−1} + b, with φ = tanh, ReLU or σ.

Each φ′ is a function of h alone: 1 − h², [h > 0], h(1 − h).
"""

from ..jit import formula
from ..pointwise import sigmoid, tanh
from ..simd import where_at_most, where_less
from .cell import Cell
from .noise import with_zoneout


@formula
def tanh_forward(slots, previous, vectors, noise):
    h = tanh(slots[0])
    return (h,), (h,)


@formula
def tanh_backward(kept, previous, d_state, vectors, noise):
    (h,) = kept
    return (d_state[0] * (1.0 - h * h),), (0.0,), ()


@formula
def relu_forward(slots, previous, vectors, noise):
    h = where_less(slots[0], 0.0, 0.0, slots[0])  # NaN is not less, and stays
    return (h,), (h,)


@formula
def relu_backward(kept, previous, d_state, vectors, noise):
    """The derivative at 0 is taken as 0, as in PyTorch."""
    return (where_at_most(kept[0], 0.0, 0.0, d_state[0]),), (0.0,), ()


@formula
def sigmoid_forward(slots, previous, vectors, noise):
    h = sigmoid(slots[0])
    return (h,), (h,)


@formula
def sigmoid_backward(kept, previous, d_state, vectors, noise):
    (h,) = kept
    return (d_state[0] * h * (1.0 - h),), (0.0,), ()


def _simple(name, forward, backward):
    return Cell(
        name=name, slots=1, states=1, input_slots=(0,), recurrent_slots=(0,), forward=forward, backward=backward,
        gate_names=("",),
    )  # fmt: skip


RNN_TANH = _simple("rnn_tanh", tanh_forward, tanh_backward)
RNN_RELU = _simple("rnn_relu", relu_forward, relu_backward)
RNN_SIGMOID = _simple("rnn_sigmoid", sigmoid_forward, sigmoid_backward)
RNN_ZONEOUT = tuple(map(with_zoneout, (RNN_TANH, RNN_RELU, RNN_SIGMOID)))
