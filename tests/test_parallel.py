"""Parts that meet after every phase, whatever threads there are; denormal numbers and the caller's float mode."""

import threading

import numba
import numpy as np
import pytest

import fastrnn
from fastrnn.kernels import parallel
from fastrnn.kernels.jit import kernel, subroutine
from fastrnn.kernels.parallel import PROGRESS_STRIDE


@subroutine
def _count_phase(part, parts, phase, span, job):
    """Count this part's phase, and note where a part of the phase before is not done."""
    counts, early = job
    for other in range(parts):
        if phase > 0 and counts[phase - 1, other] != 1:
            early[0] += 1
    total = 0.0
    for n in range(span * (part + 1)):  # parts take different times
        total += n * 0.5
    counts[phase, part] += 1 if total >= 0 else 2


_in_step = parallel.make_in_step(_count_phase)


@kernel(name="test_run_in_step")
def run_in_step(parts, phases, meet, progress, span, counts, early):
    parallel.in_parallel(_in_step, parts, (parts, phases, meet, progress, span, (counts, early)))


def go_in_step(parts, phases=300, span=20, meet=True):
    counts, early = np.zeros((phases, parts), np.int64), np.zeros(1, np.int64)
    run_in_step(parts, phases, meet, np.zeros(parts * PROGRESS_STRIDE, np.int64), span, counts, early)
    return counts, early[0]


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 16])
def test_parallel_parts_meet_also_when_threads_are_fewer(parts):
    counts, early = go_in_step(parts)
    assert early == 0
    np.testing.assert_array_equal(counts, 1)


def test_parallel_parts_meet_on_one_thread(monkeypatch):
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        counts, early = go_in_step(4)
    finally:
        numba.set_num_threads(before)
    assert early == 0
    np.testing.assert_array_equal(counts, 1)


def test_parallel_parts_that_dont_meet_run_all_their_phases():
    counts, _ = go_in_step(3, meet=False)
    np.testing.assert_array_equal(counts, 1)


def test_parallel_several_python_threads_at_once():
    results = [None] * 4
    threads = [threading.Thread(target=lambda i=i: results.__setitem__(i, go_in_step(2, 2000))) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for counts, early in results:
        assert early == 0
        np.testing.assert_array_equal(counts, 1)


def _denormals_survive():
    """Whether this thread's NumPy computes with denormal numbers."""
    tiny = np.full(64, np.finfo(np.float32).tiny)
    return bool(((tiny / 4) * 4 == tiny).all())


@pytest.mark.parametrize("kind", [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN])
def test_parallel_denormals_count_as_zero_and_the_callers_mode_stays(kind):
    """Also for what NumPy gives the layer; afterwards denormals are there again, on this thread and on others."""
    layer = kind(5, 7, seed=0)
    layer.vector_to_parameters(np.where(np.arange(layer.num_parameters) % 2, 1e-39, -1e-39).astype(np.float32))
    x = np.full((4, 3, 5), 1e-39, np.float32)
    workspace = layer.workspace(4, 3)
    for call in (
        lambda: layer.forward(x),
        lambda: layer.forward(x, workspace=workspace),
        lambda: layer.backward(np.full((4, 3, 7), 1e-39, np.float32), workspace=workspace),
        lambda: layer.step(x[0]),
    ):
        assert _denormals_survive()
        for array in _arrays(call()):
            values = np.abs(array[array != 0])
            assert values.size == 0 or values.min() >= np.finfo(np.float32).tiny
        assert _denormals_survive()
    seen = []
    thread = threading.Thread(target=lambda: seen.append(_denormals_survive()))
    thread.start()
    thread.join()
    assert seen == [True]


def _arrays(result):
    for part in result:
        if isinstance(part, tuple):
            yield from _arrays(part)
        elif part is not None:
            yield part
