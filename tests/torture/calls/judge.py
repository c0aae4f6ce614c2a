"""One malformed call: made, and judged."""

import contextlib
import inspect
import re
import resource
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numba.core.errors import NumbaError

from .arguments import Argument, kind_of
from .malformations import HUGE, asks_for_much, malformed, must_refuse, overlapping
from .prints import arrays_in, fingerprint

DOCUMENTED = (TypeError, ValueError, MemoryError, OSError, ImportError, FloatingPointError)
_OWN = (RuntimeError, ArithmeticError)  # that objects among the malformed values raise when they are looked at
# what Python, and Numba's compiler, raise where something else is expected
_MISFITS = (AttributeError, LookupError, ArithmeticError, NumbaError)
_ALONE = ("integer", "number", "flag", "choice", "model")  # right or wrong whatever the other arguments are
SECONDS = 5.0  # of processor time that a refusal or a small problem may take
_MEMORY = 256 << 20  # bytes that the process may grow by in a call


class Call(NamedTuple):
    """A right call: `function(**arguments)`, with the entry "*" in place of positional ones.

    watched: objects that stay as they are, bit for bit, if the call is refused.
    observe: of the result, what is to be compared.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]
    watched: tuple[Any, ...] = ()
    observe: Callable[[Any], Any] = lambda result: result

    def __call__(self):
        arguments = dict(self.arguments)
        return self.observe(self.function(*arguments.pop("*", ()), **arguments))


def setting(owner: Any, name: str, value: Any) -> Call:
    """The call that sets the property `name` of `owner` to a right value."""
    signature = inspect.Signature([inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)])

    def set_property(**arguments):
        setattr(owner, name, signature.bind(**arguments).arguments[name])

    set_property.__signature__ = signature
    return Call(set_property, {name: value}, (owner,))


class Entry(NamedTuple):
    """A public callable: `make(rng)` gives a right call, the same for the same numbers.

    known: what is known of arguments, by name.
    sklearn: whether scikit-learn checks the arrays: it lets through what a caller's own objects raise, and its messages
        have several lines.
    names: whether messages name the argument.
    inner: arguments of what it calls in turn, which messages must not be about.
    tool: for authors of rules and initialisers, who pass on what was checked: it refuses nothing by itself, and what
        Python raises of a misfit will do.
    disorders: what makes the call come at a wrong moment, by its name: functions of the call.
    slow: imports another large library first.
    """

    name: str
    make: Callable[[np.random.Generator], Call]
    known: dict[str, Argument] = {}
    sklearn: bool = False
    names: bool = True
    inner: tuple[str, ...] = ()
    disorders: Mapping[str, Callable[[Call], Any]] = {}
    slow: bool = False
    tool: bool = False


class Verdict(NamedTuple):
    """What was tried, in words, and what did not hold, None if all did."""

    what: str
    problem: str | None


class _Outcome(NamedTuple):
    error: BaseException | None
    print: Any  # of the result
    after: Any  # of the watched objects
    warned: list[str]
    seconds: float
    grown: int
    changed: list[str]  # arguments whose arrays are not what they were


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _forget_peak():
    """Let the peak begin anew, where the system can: after a large call a smaller one would not show."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _perform(call):
    """Make a call, and look at everything that it may have done."""
    before = {name: fingerprint(arrays_in(value)) for name, value in call.arguments.items()}
    _forget_peak()
    peak, start = _peak(), time.process_time()
    error = print_ = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            print_ = fingerprint(call())
        except Exception as raised:  # judged by whoever asked
            error = raised
    seconds, grown = time.process_time() - start, _peak() - peak
    changed = [name for name, value in call.arguments.items() if fingerprint(arrays_in(value)) != before[name]]
    after = fingerprint(call.watched)
    return _Outcome(
        error,
        print_,
        after,
        [str(w.message) for w in caught if not _is_theirs(w)],
        seconds,
        grown,
        changed,
    )


def _is_theirs(warning):
    """Whether another library warns of what it does itself, or of its own results."""
    return warning.category.__module__.startswith("sklearn") or "/keras/" in warning.filename


def known_argument(entry, call, name):
    """The `Argument` of this name: what the entry knows, and what follows from the value and the signature."""
    known = entry.known.get(name, Argument())
    if not known.kind:
        known = known._replace(kind=kind_of(name, call.arguments[name]))
    default = _default(call.function, name)
    return known._replace(none=known.none or default is None)


def _default(function, name):
    """The default of a parameter; `inspect.Parameter.empty` without one."""
    try:
        parameter = inspect.signature(function).parameters.get(name)
    except (TypeError, ValueError):
        return inspect.Parameter.empty
    return inspect.Parameter.empty if parameter is None else parameter.default


def generated(entry, seed):
    """The verdict on one generated call of an entry."""
    rng = np.random.default_rng(seed)
    call = entry.make(np.random.default_rng(seed))
    if entry.disorders and rng.random() < 0.1:
        return _disordered(entry, call, rng)
    kind = rng.random()
    if not call.arguments or kind < 0.03:
        return _wrong_signature(entry, call, rng)
    count = min(len(call.arguments), 1 if kind < 0.8 else 2 if kind < 0.95 else 3)
    names = [str(name) for name in rng.choice(list(call.arguments), count, replace=False)]
    cases = overlapping(rng, call.arguments) if "out" in call.arguments and rng.random() < 0.15 else {}
    names = [] if cases else names
    for name in names:
        argument = known_argument(entry, call, name)
        cases[name] = malformed(rng, argument, call.arguments[name])
    return judge(entry, seed, call, cases)


def _wrong_signature(entry, call, rng):
    """A call with an unknown keyword, or without an argument that it needs."""
    names = [
        name for name in call.arguments if name != "*" and _default(call.function, name) is inspect.Parameter.empty
    ]
    if names and rng.random() < 0.5:
        missing = str(rng.choice(names))
        del call.arguments[missing]
        return _refused(entry, call, f"without {missing}")
    call.arguments["nonsense"] = 1
    return _refused(entry, call, "an unknown keyword")


def _disordered(entry, call, rng):
    """A right call at a wrong moment."""
    what = str(rng.choice(list(entry.disorders)))
    entry.disorders[what](call)
    before = fingerprint(call.watched)
    outcome = _perform(call)
    refused = isinstance(outcome.error, ValueError)
    return Verdict(what, _problem(entry, call, outcome, {}, before) if refused else "there was no ValueError")


def _refused(entry, call, what):
    before = fingerprint(call.watched)
    outcome = _perform(call)
    refused = isinstance(outcome.error, TypeError)
    return Verdict(what, _problem(entry, call, outcome, {}, before) if refused else "there was no TypeError")


def judge(entry, seed, call, cases):
    """The verdict on the right `call` of this seed with malformed values, `cases`, for some of its arguments."""
    arguments = {name: known_argument(entry, call, name) for name in cases}
    what = ", ".join(f"{name}: {case.what}" for name, case in cases.items())
    must = [
        name for name, case in cases.items()
        if must_refuse(arguments[name], call.arguments[name], case) and not entry.tool
        and (len(cases) == 1 or arguments[name].kind in _ALONE and not cases.keys() & arguments[name].words)
    ]  # fmt: skip
    for name, case in cases.items():
        arguments[name] = arguments[name]._replace(words=(*arguments[name].words, *case.about))
        if arguments[name].huge == "refused" and isinstance(case.value, int) and case.value in HUGE:
            must.append(name)
    call.arguments.update({name: case.value for name, case in cases.items()})
    before = fingerprint(call.watched)
    outcome = _perform(call)
    if outcome.seconds > SECONDS:  # perhaps a kernel was compiled
        again = entry.make(np.random.default_rng(seed))
        again.arguments.update({name: case.value for name, case in cases.items()})
        outcome = _perform(again)
        call = again
    problem = _problem(entry, call, outcome, arguments, before)
    asked = any(asks_for_much(case.value) for case in cases.values())
    if problem is None and isinstance(outcome.error, MemoryError) and not asked:
        problem = f"nothing large was asked for: {_describe(outcome.error)}"
    if problem is None and outcome.error is None:
        if must:
            problem = f"{must[0]} was not refused"
        elif all(case.same for case in cases.values()) and not entry.tool:
            problem = _difference(entry, seed, cases, outcome)
    late = any(argument.late for argument in arguments.values())
    if problem is None and outcome.error is not None and call.watched and not (entry.tool or late):
        problem = _aftermath(entry, call, seed)
    return Verdict(what, problem)


def _problem(entry, call, outcome, suspects, before):
    """What is wrong with an outcome by itself; `suspects` are the arguments that may have caused an error."""
    error = outcome.error
    if outcome.warned and not entry.tool:
        return f"it warned: {outcome.warned[0]}"
    if outcome.seconds > SECONDS:
        return f"it took {outcome.seconds:.1f} s"
    asked = any(asks_for_much(value) for value in call.arguments.values())
    if outcome.grown > _MEMORY and not (entry.tool and asked):
        return f"it took {outcome.grown:,} bytes ({_describe(error)})"
    changed = [name for name in outcome.changed if not (name == "out" and error is None)]
    if "out" in call.arguments and error is None:
        changed = [name for name in changed if not _overlaps(call.arguments[name], call.arguments["out"])]
    if changed:
        return f"it changed the array {changed[0]}"
    if error is None:
        return None
    if not isinstance(error, DOCUMENTED + (_OWN if entry.sklearn else ()) + (_MISFITS + _OWN if entry.tool else ())):
        return f"it raised {_describe(error)}"
    if entry.tool:
        return None
    if outcome.after != before and not any(argument.late for argument in suspects.values()):
        return f"what it should not have touched has changed ({_describe(error)})"
    return _message_problem(entry, call, error, suspects)


def _message_problem(entry, call, error, suspects):
    message = str(error)
    if not message:
        return f"{type(error).__name__} has no message"
    if "\n" in message and not entry.sklearn:
        return f"its message has several lines: {message!r}"
    if about := next((name for name in entry.inner if re.match(rf"{name}\b", message)), None):
        return f"its message is about {about}: {_describe(error)}"
    if not entry.names:
        return None
    if isinstance(error, MemoryError) and not re.search(r"\d bytes", message):
        return f"MemoryError does not say how many bytes: {message}"
    if suspects and not isinstance(error, MemoryError):
        named = any(re.search(rf"\b{re.escape(name)}\b", message) for name in suspects)
        if not (named or any(word in message for argument in suspects.values() for word in argument.words)):
            return f"its message does not name {next(iter(suspects))}: {_describe(error)}"
    return None


def _overlaps(value, out):
    return isinstance(out, np.ndarray) and any(np.may_share_memory(array, out) for array in arrays_in(value))


def _difference(entry, seed, cases, outcome):
    """How the outcome differs from that of the plain values."""
    call = entry.make(np.random.default_rng(seed))
    call.arguments.update({name: case.plain for name, case in cases.items()})
    plain = _perform(call)
    if plain.error is not None:
        return f"the plain call raised {_describe(plain.error)}"
    if plain.print != outcome.print:
        return "its result differs from that of the plain call"
    if plain.after != outcome.after:
        return "it left something else behind than the plain call"
    return None


def _aftermath(entry, call, seed):
    """After a refusal, the right call on the same objects must do what it does on fresh ones."""
    right = entry.make(np.random.default_rng(seed))
    expected = _perform(right)
    again = entry.make(np.random.default_rng(seed))
    # the refused call's objects with fresh arguments; those arguments that are among the objects stay
    mixed = {name: _counterpart(value, again, call) for name, value in again.arguments.items()}
    found = _perform(Call(call.function, mixed, call.watched, call.observe))
    if type(found.error) is not type(expected.error):
        return f"after the refusal the right call gave {_describe(found.error)}"
    if (found.print, found.after) != (expected.print, expected.after):
        return "after the refusal the right call gives something else"
    return None


def _counterpart(value, fresh, used):
    """The watched object of the refused call that stands where `value` does among the fresh call's."""
    for old, new in zip(used.watched, fresh.watched, strict=True):
        if new is value:
            return old
    return value


def _describe(error):
    return "nothing wrong" if error is None else f"{type(error).__name__}: {str(error)[:200]}"
