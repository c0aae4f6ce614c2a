"""Ctrl-C held back while it would do harm: in callbacks and hooks, whose exceptions Python can only print."""

import contextlib
import signal
import threading


class HeldInterrupts:
    """From `begin` to `end` SIGINT is noted, not answered.

    Python answers signals in the main thread alone: in others, and where SIGINT does not call a Python function, there
    is nothing to hold.
    """

    def __init__(self):
        self._handler = None
        self._caught = None

    def begin(self):
        self._caught = None
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._note)
            self._handler = handler

    def _note(self, *arguments):
        self._caught = arguments

    def end(self):
        """What answers the interrupt that came, a function without arguments; None if there was none."""
        handler, self._handler = self._handler, None
        if handler is None:
            return None
        signal.signal(signal.SIGINT, handler)
        caught = self._caught
        return caught and (lambda: handler(*caught))


@contextlib.contextmanager
def interrupts_held():
    """A block after which an interrupt is answered that came within."""
    held = HeldInterrupts()
    held.begin()
    try:
        yield
    finally:
        answer = held.end()
        if answer is not None:
            answer()
