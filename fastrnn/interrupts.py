"""Ctrl-C while a trainer is at work; what keeps signals waiting for the compiler is in the kernels' `interrupts`."""

from __future__ import annotations

import contextlib
import signal
import threading


class Interrupts:
    """Ctrl-C while a trainer is at work: answered where what is under way can be thrown away, kept waiting elsewhere.

    Whatever Python function answers SIGINT is called then. Only the main thread receives signals. `with` blocks may
    stand within each other; the outermost one counts.
    """

    def __init__(self):
        self._depth = 0
        self._allowed = False
        self._handler = self._pending = None

    def __enter__(self):
        if not self._depth:
            self._allowed, self._handler, self._pending = False, None, None
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler) and threading.current_thread() is threading.main_thread():
                self._handler = handler
                signal.signal(signal.SIGINT, self._handle)
        self._depth += 1

    def __exit__(self, *_):
        self._depth -= 1
        if self._depth or self._handler is None:
            return
        if signal.getsignal(signal.SIGINT) == self._handle:  # and no other, set in the meantime
            signal.signal(signal.SIGINT, self._handler)
        self.answer()

    def __bool__(self):
        """Whether a block is open."""
        return self._depth > 0

    def _handle(self, *arguments):
        self._pending = arguments
        if self._allowed:
            self._allowed = False  # what the answer raises leaves the block, and no other may do so half-way
            self.answer()
            self._allowed = True

    def answer(self):
        """Answer one that has been kept waiting."""
        pending, self._pending = self._pending, None
        if pending:
            self._handler(*pending)

    @contextlib.contextmanager
    def allowed(self, allowed=True, *, waiting=True):
        """A block that can be left at any point, or at none; at once if `waiting` and one has been kept waiting."""
        before = self._allowed
        try:
            self._allowed = allowed
            if allowed and waiting:
                self.answer()
            yield
        finally:
            self._allowed = before
        if before:
            self.answer()
