"""Models as ONNX files, out and in; needs the `onnx` package (extra `onnx`).

`export` writes a layer or a model to a file that ONNX Runtime and others run. `load` reads files with RNN, LSTM and GRU
nodes, runs them, and makes a trainable model of those that are a chain of layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...layers.base import Layer
from ...storage import Path

if TYPE_CHECKING:
    from .loader import OnnxModel

__all__ = ["export", "load"]


def export(model: Layer, path: Path, *, lengths: bool = False, states: bool = True, tokens: bool = False) -> None:
    """Write what `model` computes at inference to an ONNX file at `path`, for any T and B.

    Inputs and outputs of the graph are those of `forward`: input `x`, (T,B,I) floats or (T,B) int64, batch first if the
    model is, and output `y`; for each layer with a state the inputs `h` and, of an LSTM, `c`, (L·D,B,H), and the
    outputs `h_n` and `c_n`. In a model a layer's number stands before them, as in its parameters' names: `0.h`,
    `2.0.h_n`.

    lengths: there is an input `lengths`, (B,) int32, from 1 to T, of right-padded sequences. Outputs past the ends
        are 0.
    states: whether there are inputs and outputs of states, which ONNX Runtime then needs all of. Without them sequences
        begin with what the model begins them with: zeros, or learned states.
    tokens: whether `x` is integers where the first layer, a recurrent one, takes both, integers as one-hot vectors.

    An existing file is replaced whole, or stays as it was. `ValueError` naming the layer or option for a model that
    ONNX's nodes don't express: LayerNormLSTM, Jordan, dilation, zoneout. `ImportError` without `onnx`.
    """
    _require_onnx()
    from .exporter import write

    write(model, path, lengths=lengths, states=states, tokens=tokens)


def load(path: Path) -> OnnxModel:
    """The graph in the ONNX file at `path`, to run, and its trainable `model` where it is one chain of layers.

    RNN, GRU and LSTM nodes are run with all their attributes and optional inputs; the other nodes by the `onnx`
    package's reference evaluator. Weights in other files are read from the folder of `path` alone.

    `fastrnn.FormatError` for a file that is damaged or no valid ONNX model; `ValueError` naming the node for what is
    not supported; `OSError` for one that can't be read; `ImportError` without `onnx`.
    """
    _require_onnx()
    from .loader import read

    return read(path)


def _require_onnx():
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise ImportError("ONNX files need the onnx package: pip install onnx (extra fastrnn[onnx])") from None
