"""Weights and models from elsewhere, and back: each library's part is a module of its own, imported by its name.

`fastrnn.interop.torch`: PyTorch's state dicts and modules. `fastrnn.interop.keras`: Keras's weights and models.
`fastrnn.interop.onnx`: ONNX files. The libraries themselves are imported where they are needed.
"""

from importlib import import_module as _import_module
from typing import Any as _Any


def __getattr__(name: str) -> _Any:
    if name in ("keras", "onnx", "torch"):
        return _import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
