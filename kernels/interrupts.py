"""Signals held back while an exception would do harm: in callbacks and hooks, where Python can only print it.

Python answers signals in the main thread, by calling functions that may raise, as that of SIGINT does. While the main
thread holds them they are noted; what came is answered afterwards. In other threads there is nothing to hold.
"""

import contextlib
import signal
import sys
import threading

_depth = 0  # of the blocks that hold signals, one within the other; like all below, the main thread's alone
_handlers = {}  # by signal, while they are held: what answers it
_caught = []  # the signals that came; not their frames, which would keep what the compiler made


def _note(number, _):
    _caught.append(number)


def hold():
    """Note signals, from here to `release`, instead of answering them."""
    global _depth
    if threading.current_thread() is not threading.main_thread():
        return
    _depth += 1
    if _depth > 1:
        return
    try:
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler) and handler is not _note:
                _handlers[number] = handler
                signal.signal(number, _note)
    except BaseException:  # raised by the handler of a signal that came before it was held
        release(_call)
        raise


def release(answer):
    """End what `hold` began; `answer(number, handler)` of each signal that came."""
    global _depth
    if threading.current_thread() is not threading.main_thread() or not _depth:
        return
    _depth -= 1
    if not _depth:
        _put_back(answer)


def _put_back(answer):
    """All is done, whatever is raised by the handlers that are back already."""
    handlers = dict(_handlers)
    _handlers.clear()
    with contextlib.ExitStack() as stack:
        stack.callback(_answer_all, handlers, answer)  # last
        for number, handler in handlers.items():
            stack.callback(_put_one_back, number, handler)


def _put_one_back(number, handler):
    if signal.getsignal(number) is not _note:  # but another, set in the meantime
        return
    try:
        signal.signal(number, handler)
    except BaseException:  # Python answers signals first
        signal.signal(number, handler)
        raise


def _answer_all(handlers, answer):
    with contextlib.ExitStack() as stack:
        for number in reversed(_caught):
            if number in handlers:
                stack.callback(answer, number, handlers[number])
        _caught.clear()


def _call(number, handler):
    handler(number, sys._getframe())


def forget():
    """In a forked child, whose main thread this is now: what the parent's holds or has noted is the parent's."""
    global _depth
    _depth = 0
    _caught.clear()
    _put_back(_call)


@contextlib.contextmanager
def interrupts_held():
    """A block after which the signals are answered that came within."""
    hold()
    try:
        yield
    finally:
        release(_call)
