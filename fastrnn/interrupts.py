"""Signals while a trainer is at work; what keeps them waiting for the compiler is in the kernels' `interrupts`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import weakref

from .kernels import parallel as _parallel  # noqa: F401 - in a forked child it puts back handlers before `_forget` does

_open: weakref.WeakSet[Interrupts] = weakref.WeakSet()


def _forget():
    """In a forked child: the parent's training is not the child's, which answers signals as before it."""
    for interrupts in list(_open):
        interrupts.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)



class Interrupts:
    """Signals while a trainer is at work: answered where what is under way can be thrown away, kept waiting elsewhere.

    Whatever Python function answers a signal is called then. Only the main thread receives signals. `held` blocks may
    stand within each other; the outermost one counts.
    """

    def __init__(self):
        self._depth = 0
        self._allowed = self._raising_only = False
        self._handlers = {}  # by signal, of those held
        self._pending = {}  # those that wait, in their order

    @contextlib.contextmanager
    def held(self, signals):
        """A block in which these signals wait, but where they are `allowed`."""
        self._depth += 1
        try:
            if self._depth == 1:
                self._take(signals)
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._put_back()

    def _take(self, signals):
        self._allowed, self._handlers, self._pending = False, {}, {}
        if threading.current_thread() is not threading.main_thread():
            return
        for number in signals:
            handler = signal.getsignal(number)
            if callable(handler):
                self._handlers[number] = handler
                signal.signal(number, self._handle)
        _open.add(self)

    def forget(self):
        """Put back what answered the signals before, and hold none any more; none that waits is answered."""
        self._pending = {}
        handlers, self._handlers = self._handlers, {}
        for number, handler in handlers.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)

    def _put_back(self):
        """All is done, whatever is raised by the handlers that are back already."""
        _open.discard(self)
        try:
            with contextlib.ExitStack() as stack:
                for number, handler in self._handlers.items():
                    if signal.getsignal(number) == self._handle:  # and no other, set in the meantime
                        stack.callback(signal.signal, number, handler)
        finally:
            self.answer()

    def __bool__(self):
        """Whether a block is open."""
        return self._depth > 0

    def _handle(self, number, _):
        self._pending[number] = True
        if self._allowed and not (self._raising_only and self._handlers[number] is not signal.default_int_handler):
            self._allowed = False  # what the answer raises leaves the block, and no other may do so half-way
            self.answer()
            self._allowed = True

    def answer(self):
        """Answer those that have been kept waiting, whatever is raised by one."""
        if self._pending:
            number = next(iter(self._pending))
            del self._pending[number]
            try:
                self._handlers[number](number, sys._getframe())
            finally:
                self.answer()

    @contextlib.contextmanager
    def allowed(self, allowed=True, *, waiting=True, raising_only=False):
        """A block that can be left at any point, or at none; at once if `waiting` and one has been kept waiting.

        raising_only: Ctrl-C alone may leave it, if Python's own answer to that is the one; others may look at what is
        half done.
        """
        before = self._allowed, self._raising_only
        try:
            self._allowed, self._raising_only = allowed, raising_only
            if allowed and waiting:
                self.answer()
            yield
        finally:
            self._allowed, self._raising_only = before
        if self._allowed:
            self.answer()
