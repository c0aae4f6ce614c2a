"""Every public function and method has a type for each argument and for what it returns."""

import importlib
import inspect

import pytest

MODULES = [
    "fastrnn",
    "fastrnn.bptt",
    "fastrnn.data",
    "fastrnn.diagnostics",
    "fastrnn.init",
]


def public_callables():
    """The functions and methods of everything in the modules' `__all__`, by qualified name."""
    found = {}
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            thing = getattr(module, name)
            members = vars(thing) if inspect.isclass(thing) else {}
            if inspect.isclass(thing):
                for base in thing.__mro__:
                    if base.__module__.startswith("fastrnn"):
                        members = {**vars(base), **members}
            elif inspect.isfunction(thing):
                found[f"{thing.__module__}.{thing.__qualname__}"] = thing
            for key, member in members.items():
                member = inspect.unwrap(getattr(member, "__func__", getattr(member, "fget", None) or member))
                if inspect.isfunction(member) and (not key.startswith("_") or key in ("__init__", "__call__")):
                    if member.__module__.startswith("fastrnn"):
                        found[f"{member.__module__}.{member.__qualname__}"] = member
    return found


CALLABLES = public_callables()


def test_typing_finds_what_is_public():
    expected = {"fastrnn.layers.base.Layer.forward", "fastrnn.storage.save", "fastrnn.optim.Adam.__init__"}
    assert expected <= set(CALLABLES)


@pytest.mark.parametrize("name", sorted(CALLABLES))
def test_typing_is_complete(name):
    signature = inspect.signature(CALLABLES[name])
    empty = inspect.Signature.empty
    missing = [p.name for p in signature.parameters.values() if p.annotation is empty and p.name not in ("self", "cls")]
    assert not missing
    assert signature.return_annotation is not empty or name.endswith("__init__")
