"""What the dimensions of a tensor are made of.

An axis is a tuple of atoms, such as the steps, the batch, the directions, or the features of one direction; an axis of
size 1 is the empty tuple. So it does not matter by which nodes a graph swaps, splits and joins dimensions.
"""

from typing import NamedTuple, TypeAlias


class Atom(NamedTuple):
    """A part of a shape; `size` is None where it may be any."""

    name: str
    size: int | None = None


_MOST_SIZES = 64  # of dimensions, in a list of them: joined to itself it doubles

Axis: TypeAlias = tuple[Atom, ...]
Axes: TypeAlias = tuple[Axis, ...]


def are_features(axis):
    """Whether an axis is the features of all directions, in fastrnn's order."""
    return [atom.name for atom in axis] in (["F"], ["D", "F"])


def regrouped(axes, shape):
    """The axes of a tensor in another shape, whose sizes are numbers or axes; None if atoms would have to be split."""
    left = tuple(atom for axis in axes for atom in axis)
    left_open = shape.index(-1) if -1 in shape else len(shape)  # what the other sizes leave
    before, after = [], []
    for i in range(left_open):
        count = _leading(left, axes[i] if shape[i] == 0 else shape[i])
        if count is None:
            return None
        before.append(left[:count])
        left = left[count:]
    for i in reversed(range(left_open + 1, len(shape))):
        count = _leading(left[::-1], axes[i] if shape[i] == 0 else shape[i])
        if count is None:
            return None
        after.insert(0, left[len(left) - count :])
        left = left[: len(left) - count]
    if left_open < len(shape):
        return (*before, left, *after)
    return None if left else tuple(before)


def _leading(atoms, size):
    """How many of the first atoms together have a size, a number or an axis; None if no number of them has."""
    if isinstance(size, tuple):
        return len(size) if sorted(atoms[: len(size)]) == sorted(size) else None
    count, product = 0, 1
    while count < len(atoms) and size > 1 and atoms[count].size and product * atoms[count].size <= size:
        product *= atoms[count].size
        count += 1
    return count if product == size else None


def size_arithmetic(node, inputs, given):
    """What exporters do with sizes before they hand them to Reshape; None for anything else."""
    first, *others = inputs
    if first is None:
        return None
    if node.op_type in ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"):
        return first
    if node.op_type == "Gather" and others[0] is not None:
        return tuple(first[i] for i in others[0])
    if node.op_type == "Slice" and None not in others and all(len(other) == 1 for other in others):
        step = others[3][0] if len(others) > 3 else 1
        return first[others[0][0] : others[1][0] : step]
    if None in others:
        return None
    if node.op_type == "Concat":
        return sum(others, first) if len(first) + sum(map(len, others)) <= _MOST_SIZES else None
    if node.op_type == "Mul" and len(first) == len(others[0]) == 1:
        a, b = first[0], others[0][0]
        return (a + b,) if isinstance(a, tuple) and isinstance(b, tuple) else None
    return None
