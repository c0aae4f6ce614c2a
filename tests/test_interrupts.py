"""Ctrl-C while kernels are compiled."""

import signal

import numpy as np
import pytest

from fastrnn.kernels.jit import kernel


def test_interrupts_are_held_while_a_kernel_is_compiled(monkeypatch):
    """In LLVM's callback one would be printed, and the code that it brings lost."""

    def probe(x):
        x[0] = 7

    compiled, overloads = kernel(probe, name="interrupted_probe"), []
    save = compiled._cache.save_overload

    def interrupted_save(*arguments):
        signal.raise_signal(signal.SIGINT)
        overloads.append(arguments)
        save(*arguments)

    monkeypatch.setattr(compiled._cache, "save_overload", interrupted_save)
    x = np.zeros(1)
    with pytest.raises(KeyboardInterrupt):
        compiled(x)
    assert len(overloads) == 1 and x[0] == 0
    compiled(x)
    assert len(overloads) == 1 and x[0] == 7
