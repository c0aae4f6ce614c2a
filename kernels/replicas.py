"""Copies of a NamedTuple of arrays, one for each thread of a user's parallel loop.

Numba takes no tuple of tuples into the body of a `prange`, but one tuple whose arrays have an axis for the copies.
"""

import operator

import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import signature
from numba.extending import intrinsic, overload

from .memory import aligned_empty


def _copies(field, count):
    array = np.asarray(field)
    copies = aligned_empty(count * array.size, array.dtype).reshape(count, *array.shape)
    copies[...] = array
    return copies


def replicate(value, count):
    """`count` copies of a NamedTuple of arrays and numbers, as one of its class whose arrays have a first axis more.

    For Python code: compiled code takes the copies apart again, with `replica`.
    """
    return type(value)(*(_copies(field, count) for field in value))


def replica(replicas, index):
    """The copy number `index` of what `replicate` returned: views of its arrays."""
    return type(replicas)(*(field[index] for field in replicas))


@intrinsic
def _entries(typingctx, replicas, index):
    fields = [
        array.dtype if array.ndim == 1 else array.copy(ndim=array.ndim - 1, layout="C") for array in replicas.types
    ]
    result = types.BaseTuple.from_types(fields, replicas.instance_class)

    def codegen(context, builder, sig, args):
        arrays = cgutils.unpack_tuple(builder, args[0])
        entries = []
        for array, array_type, field in zip(arrays, replicas.types, fields, strict=True):
            entry_signature = signature(field, array_type, types.intp)
            entry = context.get_function(operator.getitem, entry_signature)
            entries.append(entry(builder, (array, args[1])))
        return context.make_tuple(builder, result, entries)

    return result(replicas, types.intp), codegen


@overload(replica)
def _compiled_replica(replicas, index):
    return lambda replicas, index: _entries(replicas, index)
