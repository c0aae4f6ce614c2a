"""pytest-benchmark: one recurrent layer, ours and PyTorch's; groups by question and shape."""

import pytest

from .recurrent import SHAPES, Problem


@pytest.mark.parametrize("who", ["fastrnn", "torch"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("work", ["train", "infer"])
def test_recurrent(benchmark, cell, shape, work, who):
    problem = Problem(cell, shape)
    assert problem.worst_error() < 1e-4  # what computes something wrong is not timed
    benchmark.group = f"{cell} {work} {shape}"
    benchmark(getattr(problem, work if who == "fastrnn" else f"peer_{work}"))
