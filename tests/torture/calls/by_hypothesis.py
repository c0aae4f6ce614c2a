"""Values for arguments that hypothesis thinks of."""

import operator

import hypothesis
import hypothesis.extra.numpy as arrays
import numpy as np
from hypothesis import strategies as st

from .judge import judge, known_argument
from .malformations import HUGE, Malformed

_EXAMPLES = 3  # for one call of `examples`

_NUMBERS = st.one_of(
    st.integers(-3, 9), st.integers(), st.floats(), st.floats(width=32).map(np.float32), st.booleans(),
    st.complex_numbers(), st.decimals(), st.fractions(),
    st.sampled_from([np.int8, np.uint8, np.int64, np.uint64]).map(lambda scalar: scalar(3)),
)  # fmt: skip
_ARRAYS = arrays.arrays(
    st.one_of(arrays.scalar_dtypes(), st.sampled_from(["f4", "f8", "i8", "?"]).map(np.dtype)),
    arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
_LEAVES = st.one_of(st.none(), _NUMBERS, st.text(max_size=5), st.binary(max_size=5), _ARRAYS)
_VALUES = st.one_of(
    _LEAVES,
    st.recursive(
        _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(
            st.text(max_size=5), inner, max_size=3), max_leaves=6,
    ),
)  # fmt: skip


def _values(argument):
    """A strategy for an argument: work without end is no malformation, nor is a size that there is memory for."""
    if argument.huge == "untried":
        return _VALUES.filter(lambda value: _number(value) < 9)
    if argument.huge == "refused":
        return _VALUES.filter(lambda value: _number(value) < 999 or _number(value) >= HUGE[0])
    return _VALUES


def _number(value):
    """`value` as an integer, which arrays without dimensions are, too; 0 for what is none."""
    try:
        return operator.index(value)
    except TypeError:
        return 0


def examples(entry, seed, log):
    """Judge a few calls of an entry whose values hypothesis draws."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=_EXAMPLES, database=None, deadline=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(st.data())
    def try_one(data):
        call = entry.make(np.random.default_rng(seed))
        cases = {}
        if call.arguments:
            name = data.draw(st.sampled_from(sorted(call.arguments)))
            value = data.draw(_values(known_argument(entry, call, name)))
            cases[name] = Malformed(repr(value)[:100], value)
        shown = [(name, case.what) for name, case in cases.items()]
        with log.trial(entry, f"{seed} by hypothesis {shown}", "hypothesis") as verdicts:
            verdicts.append(judge(entry, seed, call, cases))

    try_one()
