"""The catalogue: a right call of every public callable of fastrnn."""

from . import catalogue_estimators, catalogue_layers, catalogue_tools, catalogue_training


def entries():
    """A dict of all entries by name."""
    found = {}
    for module in (catalogue_layers, catalogue_training, catalogue_tools, catalogue_estimators):
        for entry in module.entries():
            if entry.name in found:
                raise ValueError(f"{entry.name} is in the catalogue twice")
            found[entry.name] = entry
    return found
