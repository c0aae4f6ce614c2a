"""ONNX Runtime: a graph of one LSTM, GRU or RNN operator, for inference."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from . import Peer

# ONNX's order of the gates in PyTorch's
_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
_ATTRIBUTES = {"LSTM": {}, "GRU": {"linear_before_reset": 1}, "RNN": {}}
_IR_VERSION, _OPSET = 8, 17  # not newer than the runtime knows


def _reordered(cell, weight):
    """PyTorch's weight or bias in ONNX's order of gates."""
    gates = np.split(weight, len(_ORDER[cell]))
    return np.concatenate([gates[i] for i in _ORDER[cell]])


def session(problem, threads, *, states=False):
    """An `InferenceSession` of x (T,B,I) -> y (T,1,B,H).

    With `states` also of the initial states h (1,B,H) and, for an LSTM, c, and then of h_n and c_n instead of y.
    """
    steps, batch, inputs, hidden = problem.shape
    weight_ih, weight_hh, bias_ih, bias_hh = (_reordered(problem.cell, w) for w in problem.weights.values())
    constants = {"W": weight_ih[None], "R": weight_hh[None], "B": np.concatenate([bias_ih, bias_hh])[None]}
    names = (["h", "c"] if problem.cell == "LSTM" else ["h"]) if states else []
    outputs = ["", *(f"{name}_n" for name in names)] if states else ["y"]
    node = helper.make_node(
        problem.cell, ["x", "W", "R", "B", *([""] if names else []), *names], outputs, hidden_size=hidden,
        **_ATTRIBUTES[problem.cell],
    )  # fmt: skip

    def value(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    made = [value("y", steps, 1, batch, hidden)] if not states else [value(o, 1, batch, hidden) for o in outputs[1:]]
    graph = helper.make_graph(
        [node],
        "layer",
        [value("x", steps, batch, inputs), *(value(name, 1, batch, hidden) for name in names)],
        made,
        [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in constants.items()],
    )
    model = helper.make_model(graph, ir_version=_IR_VERSION, opset_imports=[helper.make_opsetid("", _OPSET)])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Layer(Peer):
    """Inference alone."""

    trains = ()

    def __init__(self, problem, threads):
        super().__init__(problem, threads)
        self.session = session(problem, threads)

    def infer(self):
        return self.session.run(["y"], {"x": self.problem.x})[0]

    def results(self, work):
        return {"y": self.infer()[:, 0]}
