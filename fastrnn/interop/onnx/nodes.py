"""ONNX's recurrent nodes: what their attributes and inputs say, and the outputs, by fastrnn's layers if these can."""

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import onnx

from ... import checks
from ...layers import GRU, LSTM, RNN, PeepholeLSTM
from ...layers.initial_state import LEARNED, NAMES, ZEROS
from ...layers.recurrent import Recurrent
from . import activations
from .activations import Activation
from .cells import CellWeights, NumpyCell, NumpyGRU, NumpyLSTM, NumpyRNN
from .weights import layer_parameters

RELU, SIGMOID, TANH = activations.parse(["Relu", "Sigmoid", "Tanh"], (), ())
WEIGHT_INPUTS = (1, 2, 3, 7)  # W, R, B and P, as they stand in a node's inputs


class Options(NamedTuple):
    """The attributes of a recurrent node."""

    reverse: tuple[bool, ...]  # of each direction
    functions: list[list[Activation]]  # of each direction
    clip: float | None
    hidden_size: int | None
    batch_first: bool
    input_forget: bool
    linear_before_reset: bool


class _Operator(NamedTuple):
    gates: int
    states: int  # parts of the state
    functions: list[Activation]  # f, g and h where a node names none
    layer: Callable  # class and arguments of fastrnn's layer for these options, functions and peepholes, or None
    numpy_cell: type[NumpyCell]


def _rnn(options, functions, peepholes):
    (function,) = functions
    return (RNN, {"nonlinearity": function.name}) if function in (RELU, SIGMOID, TANH) else None


def _gru(options, functions, peepholes):
    return (GRU, {"reset_after": options.linear_before_reset}) if functions == [SIGMOID, TANH] else None


def _lstm(options, functions, peepholes):
    if functions != [SIGMOID, TANH, TANH] or options.input_forget:
        return None
    return (PeepholeLSTM if peepholes else LSTM), {}


OPERATORS = {
    "RNN": _Operator(1, 1, [TANH], _rnn, NumpyRNN),
    "GRU": _Operator(3, 1, [SIGMOID, TANH], _gru, NumpyGRU),
    "LSTM": _Operator(4, 2, [SIGMOID, TANH, TANH], _lstm, NumpyLSTM),
}
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def read_options(node: onnx.NodeProto) -> Options:
    """The attributes of a recurrent node; `ValueError` for those that are not supported."""
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    given.pop("output_sequence", None)  # of the first versions: whether Y may be left out, which it may be always
    direction = given.pop("direction", b"forward").decode()
    if direction not in _DIRECTIONS:
        raise ValueError(f"the direction {direction!r} is not supported")
    reverse = _DIRECTIONS[direction]
    usual = OPERATORS[node.op_type].functions
    names = [name.decode() for name in given.pop("activations", ())]
    functions = activations.parse(names, given.pop("activation_alpha", ()), given.pop("activation_beta", ()))
    functions = functions or usual * len(reverse)
    if len(functions) != len(usual) * len(reverse):
        raise ValueError(f"activations must name {len(usual) * len(reverse)} functions, got {len(functions)}")
    clip = given.pop("clip", None)
    options = Options(
        reverse=reverse,
        functions=[functions[i : i + len(usual)] for i in range(0, len(functions), len(usual))],
        clip=None if clip is None else checks.number("clip", clip, above=0),
        hidden_size=given.pop("hidden_size", None),
        batch_first=bool(checks.integer("layout", given.pop("layout", 0), minimum=0, maximum=1)),
        input_forget=bool(given.pop("input_forget", 0)),
        linear_before_reset=bool(given.pop("linear_before_reset", 0)),
    )
    if given:
        raise ValueError(f"the attributes {', '.join(sorted(given))} are not supported")
    return options


def read_weights(operator: str, options: Options, w, r, b, p) -> list[CellWeights]:
    """The inputs W, R, B and P, of which the last two may be None, as each direction's weights.

    `ValueError` if they don't fit.
    """
    directions, gates, dtype = len(options.reverse), OPERATORS[operator].gates, w.dtype
    r = _tensor("R", r, dtype, (directions, None, options.hidden_size))
    hidden = r.shape[2]
    checks.shape("R", r.shape, (directions, gates * hidden, hidden))
    w = _tensor("W", w, dtype, (directions, gates * hidden, None))
    b = [None] * directions if b is None else _tensor("B", b, dtype, (directions, 2 * gates * hidden))
    p = [None] * directions if p is None else _tensor("P", p, dtype, (directions, 3 * hidden))
    return [CellWeights(*parts) for parts in zip(w, r, b, p, strict=True)]


def fitting_layer(
    operator: str,
    options: Options,
    functions: list[Activation],
    weights: list[CellWeights],
    learned: Sequence[np.ndarray] = (),
) -> Recurrent | None:
    """The layer of fastrnn's with these functions and weights, of one direction or both; None if none computes it.

    learned: initial states h and c, each (D,H), where sequences don't begin with zeros.
    """
    fitting = OPERATORS[operator].layer(options, functions, weights[0].P is not None)
    if fitting is None or options.clip is not None:
        return None
    kind, arguments = fitting
    first = weights[0]
    layer = kind(
        first.W.shape[1], first.R.shape[1], bias=first.B is not None, bidirectional=len(weights) == 2,
        initial_state=LEARNED if learned else ZEROS, dtype=first.W.dtype, **arguments,
    )  # fmt: skip
    layer.load_state_dict({**layer_parameters(operator, weights), **dict(zip(NAMES, learned, strict=False))})
    return layer


class _LayerCell:
    """One direction of a node, by a layer of fastrnn's: the counterpart of `NumpyCell`."""

    def __init__(self, layer: Recurrent):
        self._layer = layer

    def forward(self, x, state, lengths):
        """As `NumpyCell.forward`."""
        parts = [part[np.newaxis] for part in state]
        y, final = self._layer.forward(x, parts if len(parts) > 1 else parts[0], lengths=lengths)
        return y, tuple(part[0] for part in (final if len(parts) > 1 else (final,)))


class RecurrentNode:
    """A recurrent node, ready to run.

    keep_weights: whether its weights are the same in every run, so that their packing is done once.

    `ValueError` naming the node for attributes that are not supported, or inputs that don't fit.
    """

    def __init__(self, node: onnx.NodeProto, *, keep_weights: bool):
        self._node = node
        with self._naming_it():
            self._options = read_options(node)
        self._keep_weights = keep_weights
        self._kept: list[_LayerCell | NumpyCell] | None = None

    @contextlib.contextmanager
    def _naming_it(self):
        try:
            yield
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self._node.op_type} node {self._node.name!r}: {error}") from None

    def run(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """Y, Y_h and, of a state of two parts, Y_c, of the node's inputs in their order, None for those left out."""
        with self._naming_it():
            return self._outputs(*inputs)

    def _outputs(self, x, w, r, b=None, lengths=None, h=None, c=None, p=None):
        options, dtype = self._options, w.dtype
        cells = self._cells(w, r, b, p)
        x = _tensor("X", x, dtype, (None, None, w.shape[2]))
        if options.batch_first:
            x = x.swapaxes(0, 1)
        steps, batch, _ = x.shape
        lengths = np.full(batch, steps) if lengths is None else lengths
        lengths = checks.integer_array("sequence_lens", lengths, (batch,), minimum=0, maximum=steps)
        state = [self._state(name, part, dtype, batch, r.shape[2]) for name, part in self._parts(h, c)]
        outputs, finals = [], []
        for cell, reverse, *initial in zip(cells, options.reverse, *state, strict=True):
            y, final = cell.forward(_reversed(x, lengths) if reverse else x, initial, np.maximum(lengths, 1))
            outputs.append(_reversed(y, lengths) if reverse else y)
            finals.append(final)
        y, final = np.stack(outputs, 1), [np.stack(parts) for parts in zip(*finals, strict=True)]
        for array in (y, *final):
            array[..., lengths == 0, :] = 0  # as ONNX Runtime has it
        if options.batch_first:
            y, final = y.transpose(2, 0, 1, 3), [part.swapaxes(0, 1) for part in final]
        return tuple(part.astype(dtype, copy=False) for part in (y, *final))

    def _parts(self, h, c):
        return (("initial_h", h), ("initial_c", c))[: OPERATORS[self._node.op_type].states]

    def _cells(self, w, r, b, p):
        """What computes each direction."""
        if self._kept is not None:
            return self._kept
        operator, options, cells = self._node.op_type, self._options, []
        weights = read_weights(operator, options, w, r, b, p)
        for own, functions in zip(weights, options.functions, strict=True):
            layer = fitting_layer(operator, options, functions, [own])
            numpy_cell = OPERATORS[operator].numpy_cell
            cells.append(numpy_cell(own, functions, options) if layer is None else _LayerCell(layer))
        if self._keep_weights:
            self._kept = cells
        return cells

    def _state(self, name, value, dtype, batch, hidden):
        """A part of the initial state, (D,B,H)."""
        directions = len(self._options.reverse)
        if value is None:
            return np.zeros((directions, batch, hidden), _working(dtype))
        if self._options.batch_first:
            return _tensor(name, value, dtype, (batch, directions, hidden)).swapaxes(0, 1)
        return _tensor(name, value, dtype, (directions, batch, hidden))


def _working(dtype):
    """The precision to compute in: half precision is for storage alone."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def _tensor(name, value, dtype, shape):
    """`value` in the precision to compute in, if it has the dtype and the shape that it should."""
    if value.dtype != dtype or dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"{name} must hold floating-point numbers, as W does with {dtype}, got {value.dtype}")
    checks.shape(name, value.shape, shape)
    return value.astype(_working(dtype), copy=False)


def _reversed(x, lengths):
    """x (T,B,F) with each sequence backward, up to its own end."""
    steps = np.arange(len(x))[:, np.newaxis]
    order = np.where(steps < lengths, lengths - 1 - steps, steps)
    return np.take_along_axis(x, order[..., np.newaxis], 0)
