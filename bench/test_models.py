"""How long do a streamed step and a whole training step take, by whom?"""

import numpy as np
import pytest

from .checks import check_agreement
from .peers import Unavailable, module
from .tables import language_model, streaming


@pytest.mark.parametrize("hidden", [64, 16])
@pytest.mark.parametrize("name", ["kernel", "fastrnn", "torch nn.LSTM", "torch nn.LSTMCell", "onnxruntime"])
def test_streaming(benchmark, threads, hidden, name):
    calls, outputs = streaming.contestants(hidden, threads)
    if name not in calls:
        pytest.skip(f"{name} is not installed")
    check_agreement({who: {"y": y} for who, y in outputs.items()}, "float32", "streaming")
    benchmark.group = f"{streaming.LOOP} streamed steps, hidden {hidden}"
    benchmark(calls[name], *([streaming.LOOP] if name == "kernel" else []))


@pytest.mark.parametrize("hidden", language_model.HIDDEN)
@pytest.mark.parametrize("name", ["fastrnn", *language_model.ADAMS])
def test_language_model(benchmark, threads, hidden, name):
    try:
        module("torch")
    except Unavailable as error:
        pytest.skip(str(error))
    models, difference = language_model.contestants(hidden, threads)
    assert np.isfinite(difference)  # and small, or it would have been void
    benchmark.group = f"language model, hidden {hidden}"
    benchmark(models[name].step)
