"""Weights in ONNX's layout and in fastrnn's: the gates stand in another order."""

import numpy as np

from ...layers import GRU, LSTM, RNN, PeepholeLSTM
from ...layers.recurrent import Recurrent
from .cells import CellWeights

OPERATORS: dict[type[Recurrent], str] = {RNN: "RNN", GRU: "GRU", LSTM: "LSTM", PeepholeLSTM: "LSTM"}

# Which of fastrnn's gates each of ONNX's is: i,f,g,o as i,o,f,c; r,z,n as z,r,h; peepholes i,f,o as i,o,f.
_GATES = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2)}
_PEEPHOLES = (0, 2, 1)


def _reordered(array, order):
    blocks = np.split(array, len(order))
    return np.concatenate([blocks[i] for i in order])


def _inverse(order):
    return tuple(np.argsort(order))


def node_weights(layer: Recurrent, number: int) -> dict[str, np.ndarray]:
    """The inputs W, R, B and P of the node for one layer of a stack, those that it has, for all its directions."""
    order = _GATES[OPERATORS[type(layer)]]
    values = layer.state_dict()
    directions = []
    for suffix in _suffixes(number, layer.directions):
        inputs = {"W": _reordered(values[f"weight_ih{suffix}"], order)}
        inputs["R"] = _reordered(values[f"weight_hh{suffix}"], order)
        if layer.bias:
            biases = [_reordered(values[f"bias_{kind}{suffix}"], order) for kind in ("ih", "hh")]
            inputs["B"] = np.concatenate(biases)
        if isinstance(layer, PeepholeLSTM):
            inputs["P"] = _reordered(values[f"peephole{suffix}"], _PEEPHOLES)
        directions.append(inputs)
    return {name: np.stack([inputs[name] for inputs in directions]) for name in directions[0]}


def layer_parameters(operator: str, directions: list[CellWeights]) -> dict[str, np.ndarray]:
    """The parameters of a fastrnn layer without a stack, of the weights of a node's directions."""
    order = _inverse(_GATES[operator])
    values = {}
    for suffix, weights in zip(_suffixes(0, len(directions)), directions, strict=True):
        values[f"weight_ih{suffix}"] = _reordered(weights.W, order)
        values[f"weight_hh{suffix}"] = _reordered(weights.R, order)
        if weights.B is not None:
            for kind, bias in zip(("ih", "hh"), np.split(weights.B, 2), strict=True):
                values[f"bias_{kind}{suffix}"] = _reordered(bias, order)
        if weights.P is not None:
            values[f"peephole{suffix}"] = _reordered(weights.P, _inverse(_PEEPHOLES))
    return values


def _suffixes(number, directions):
    """Of the names of a layer's parameters, one a direction."""
    return [f"_l{number}", f"_l{number}_reverse"][:directions]
