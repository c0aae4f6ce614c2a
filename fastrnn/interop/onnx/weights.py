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
    """Those of the inputs W, R, B and P that the node for one layer of a stack has, for all its directions."""
    order = _GATES[OPERATORS[type(layer)]]
    values = layer.state_dict()
    directions = []
    for suffix in _suffixes(number, layer.directions):
        w, r = [_reordered(values[f"weight_{kind}{suffix}"], order) for kind in ("ih", "hh")]
        b = p = None
        if layer.bias:
            b = np.concatenate([_reordered(values[f"bias_{kind}{suffix}"], order) for kind in ("ih", "hh")])
        if isinstance(layer, PeepholeLSTM):
            p = _reordered(values[f"peephole{suffix}"], _PEEPHOLES)
        directions.append((w, r, b, p))
    inputs = zip(CellWeights._fields, zip(*directions, strict=True), strict=True)
    return {name: np.stack(arrays) for name, arrays in inputs if arrays[0] is not None}


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
