"""Signals held back while an exception would do harm: in callbacks and hooks, where Python can only print it.

Python answers signals in the main thread, by calling functions that may raise, as that of SIGINT does. While the main
thread holds them they are noted; what came is answered afterwards. In other threads there is nothing to hold.
"""

import contextlib
import signal
import threading

_depth = 0  # of the blocks that hold signals, one within the other; like all below, the main thread's alone
_handlers = {}  # by signal, while they are held: what answers it
_caught = []  # (signal, frame) of those that came


def _note(*arguments):
    _caught.append(arguments)


def hold():
    """Note signals, from here to `release`, instead of answering them."""
    global _depth
    if threading.current_thread() is not threading.main_thread():
        return
    if not _depth:
        _caught.clear()
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler) and handler is not _note:
                _handlers[number] = handler
                signal.signal(number, _note)
    _depth += 1


def release():
    """End what `hold` began; (signal, frame, handler) of those that came, which are to be answered now."""
    global _depth
    if threading.current_thread() is not threading.main_thread() or not _depth:
        return []
    _depth -= 1
    return [] if _depth else _put_back()


def _put_back():
    handlers = dict(_handlers)
    _handlers.clear()
    for number, handler in handlers.items():
        if signal.getsignal(number) is _note:  # and no other, set in the meantime
            signal.signal(number, handler)
    return [(number, frame, handlers[number]) for number, frame in _caught if number in handlers]


def forget():
    """In a forked child, whose main thread this is now: what the parent's holds or has noted is the parent's."""
    global _depth
    _depth = 0
    _put_back()
    _caught.clear()


@contextlib.contextmanager
def interrupts_held():
    """A block after which the signals are answered that came within."""
    hold()
    try:
        yield
    finally:
        for number, frame, handler in release():
            handler(number, frame)
