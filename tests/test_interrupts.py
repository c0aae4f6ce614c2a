"""Signals while kernels are compiled, and while processes are forked: held, and answered afterwards."""

import os
import signal
import threading
import weakref

import numpy as np
import pytest

from fastrnn.kernels.interrupts import interrupts_held
from fastrnn.kernels.jit import kernel


class Stop(Exception):
    """What a user's handler raises."""


def stop(*_):
    raise Stop


@pytest.fixture(params=["SIGINT", "SIGALRM"])
def number(request):
    """A signal that a user's handler answers."""
    if not hasattr(signal, request.param):
        pytest.skip("the system has no such signal")
    number = signal.Signals[request.param]
    before = signal.signal(number, stop)
    yield number
    assert signal.signal(number, before) is stop


def test_interrupts_are_held_while_a_kernel_is_compiled(number, monkeypatch):
    """In LLVM's callback one would be printed, and the code that it brings lost."""

    def probe(x):
        x[0] = 7

    compiled, overloads = kernel(probe, name="interrupted_probe"), []
    save = compiled._cache.save_overload

    def interrupted_save(*arguments):
        signal.raise_signal(number)
        overloads.append(arguments)
        save(*arguments)

    monkeypatch.setattr(compiled._cache, "save_overload", interrupted_save)
    monkeypatch.setattr(compiled._cache, "load_overload", lambda *_: None)
    x = np.zeros(1)
    with pytest.raises(Stop):
        compiled(x)
    assert len(overloads) == 1 and x[0] == 0
    compiled(x)
    assert len(overloads) == 1 and x[0] == 7


def test_interrupts_of_blocks_within_each_other_are_answered_after_all(number):
    done = []
    with pytest.raises(Stop), interrupts_held():
        with interrupts_held():
            signal.raise_signal(number)
        done.append("the inner block")
    assert done


def test_interrupts_handler_that_was_set_in_the_meantime_stays(number):
    with interrupts_held():
        signal.signal(number, signal.SIG_IGN)
    assert signal.signal(number, stop) == signal.SIG_IGN


def test_interrupts_keep_nothing_of_what_they_came_in(number):
    """A frame would keep what LLVM made until the next block, or until the user's handler forgets it."""

    class Thing:
        pass

    def work():
        thing = Thing()
        signal.raise_signal(number)
        return weakref.ref(thing)

    with pytest.raises(Stop) as raised, interrupts_held():
        thing = work()
    assert raised.traceback and thing() is None


@pytest.fixture
def other():
    """Another signal, whose handler takes note."""
    if not hasattr(signal, "SIGUSR1"):
        pytest.skip("the system has no such signal")
    came = []
    before = signal.signal(signal.SIGUSR1, lambda *_: came.append(1))
    yield came
    signal.signal(signal.SIGUSR1, before)


def test_interrupts_that_come_before_they_are_held_leave_all_as_it_was(number, other, monkeypatch):
    handlers = signal.getsignal(number), signal.getsignal(signal.SIGUSR1)

    def signals():
        yield signal.SIGUSR1
        signal.raise_signal(signal.SIGUSR1)
        assert not other
        signal.raise_signal(number)
        yield number

    monkeypatch.setattr(signal, "valid_signals", signals)
    with pytest.raises(Stop), interrupts_held():
        pytest.fail("nothing was raised")
    assert (signal.getsignal(number), signal.getsignal(signal.SIGUSR1)) == handlers
    assert other == [1]


def test_interrupts_that_come_while_handlers_are_put_back_leave_none_behind(number, other, monkeypatch):
    handlers = signal.getsignal(number), signal.getsignal(signal.SIGUSR1)
    put, coming = signal.signal, [number]

    def interrupted_put(which, handler):
        if coming and which != number and signal.getsignal(number) is stop:
            signal.raise_signal(coming.pop())
        return put(which, handler)

    monkeypatch.setattr(signal, "valid_signals", lambda: [signal.SIGUSR1, number])  # put back in the other order
    with pytest.raises(Stop), interrupts_held():
        signal.raise_signal(signal.SIGUSR1)
        monkeypatch.setattr(signal, "signal", interrupted_put)
    monkeypatch.undo()
    assert not coming
    assert (signal.getsignal(number), signal.getsignal(signal.SIGUSR1)) == handlers
    assert other == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_interrupts_are_the_main_threads_whoever_forks(number):
    """Another thread's fork answers nothing, and forgets nothing; its child's handlers are the user's again."""
    statuses = []

    def fork():
        pid = os.fork()
        if pid == 0:
            os._exit(0 if signal.getsignal(number) is stop else 1)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    with pytest.raises(Stop), interrupts_held():
        signal.raise_signal(number)
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
    assert statuses == [0]
