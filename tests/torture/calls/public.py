"""Which callables of fastrnn are public, found by looking: what the catalogue must have."""

import importlib
import inspect

MODULES = (
    "fastrnn", "fastrnn.storage", "fastrnn.bptt", "fastrnn.data", "fastrnn.diagnostics", "fastrnn.init",
    "fastrnn.estimators", "fastrnn.interop.torch", "fastrnn.interop.keras", "fastrnn.interop.onnx",
    "fastrnn.plot", "fastrnn.types",
)  # fmt: skip

_PROTOCOLS = ("__call__", "__iter__", "__len__")  # that a class of ours may have: called by whoever holds an object

_GIVEN_OUT = ("fastrnn.interop.onnx.OnnxModel.run",)  # methods of what functions return, whose class has no door

NOT_TRIED = {
    "fastrnn.kernels": "compiled code: what its caller must guarantee stands in its docstrings",
    "fastrnn.FormatError": "an exception",
    "fastrnn.NonFiniteError": "an exception",
    "fastrnn.GradcheckReport": "a record that gradcheck gives out",
    "fastrnn.diagnostics.Gate": "a record that gradient_flow gives out",
    "fastrnn.diagnostics.GradientFlow": "a record that gradient_flow gives out",
    "fastrnn.diagnostics.LayerFlow": "a record that gradient_flow gives out",
    "fastrnn.diagnostics.TruncationBias": "a record that truncation_bias gives out",
    "fastrnn.diagnostics.Verdict": "a record that gradient_flow gives out",
    "fastrnn.bptt.Rule": "abstract: its methods are tried in every rule",
    "fastrnn.types.Loss": "a protocol for type checkers",
    "fastrnn.types.Optimizer": "a protocol for type checkers",
    "*.parameter_shapes": "tells `storage` of shapes, before a constructor checks the same arguments",
    "*.set_fit_request": "scikit-learn's own",
    "*.set_partial_fit_request": "scikit-learn's own",
    "*.set_predict_request": "scikit-learn's own",
    "*.set_score_request": "scikit-learn's own",
}


def public_callables():
    """Names such as "fastrnn.LSTM", a constructor, "fastrnn.LSTM.forward", and "fastrnn.Trainer.optimizer", a property
    that can be set, of all that is to be tried."""
    names, seen = [], set()
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            value = getattr(module, name)
            if not callable(value) or not getattr(value, "__module__", "").startswith("fastrnn") or id(value) in seen:
                continue  # type aliases, constants, submodules; or met in another module before
            seen.add(id(value))
            names.append(f"{module_name}.{name}")
            if inspect.isclass(value):
                names += [f"{module_name}.{name}.{method}" for method in _methods(value)]
    return [name for name in (*names, *_GIVEN_OUT) if not _excepted(name)]


def _methods(kind):
    """The public methods and the properties that can be set of a class, which fastrnn defines, also in a base of it."""
    for name in dir(kind):
        if name.startswith("_") and name not in _PROTOCOLS:
            continue
        owner = next((base for base in kind.__mro__ if name in base.__dict__), None)
        if owner is None or not owner.__module__.startswith("fastrnn"):
            continue
        value = getattr(kind, name)
        if callable(value) or getattr(value, "fset", None):
            yield name


def _excepted(name):
    owner, _, method = name.rpartition(".")
    is_record = owner in NOT_TRIED and not method.startswith("plot")  # a record's own methods take arguments
    return name in NOT_TRIED or f"*.{method}" in NOT_TRIED or is_record
