"""ONNX's recurrent operators for the evaluator of the `onnx` package, whose own leave most options out."""

from typing import Any

import onnx
from onnx.reference.op_run import OpRun

from .nodes import OPERATORS, WEIGHT_INPUTS, RecurrentNode


class _Recurrent(OpRun):
    op_domain = ""
    constants: frozenset[str] = frozenset()  # the names of values that are the same in every run

    def __init__(self, node: onnx.NodeProto, run_params: dict[str, Any], schema: Any = None):
        super().__init__(node, run_params, schema)
        weights = [node.input[i] for i in WEIGHT_INPUTS if i < len(node.input) and node.input[i]]
        self._node = RecurrentNode(node, keep_weights=self.constants.issuperset(weights))

    def _run(self, *inputs, **attributes):
        return self._node.run(*inputs)


def operators(constants: frozenset[str]) -> list[type[OpRun]]:
    """The evaluator's classes for a graph with these names of constant values."""
    return [type(name, (_Recurrent,), {"constants": constants}) for name in OPERATORS]
