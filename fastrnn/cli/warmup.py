"""`fastrnn warmup`: compile every kernel now, rather than when it is first used."""

import functools
import time
from collections.abc import Callable, Iterator

import numpy as np

from .. import kernels, language_model, layers, losses, optim
from ..bptt import Full
from ..model import Sequential
from ..trainer import Trainer
from .common import Progress, add_json, report, say
from .info import kernel_cache

DTYPES = ("float32", "float64")

_STEPS, _BATCH, _SIZE = 2, 2, 4


def add_parser(commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "warmup",
        help="compile and cache every kernel now",
        description="Compile every kernel and keep it in the cache folder, so that no later process has to wait. "
        "Kernels that are in the cache already are only loaded.",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments) -> None:
    """Use everything once."""
    began = time.perf_counter()
    everything = list(tasks())
    with Progress("warmup") as progress:
        for index, (name, task) in enumerate(everything):
            progress.show(index / len(everything), name)
            task()
        progress.show(1.0, "done")
    folder = kernel_cache()
    where = f"cached in {folder}" if folder else "but not cached, as the warning says"
    seconds = time.perf_counter() - began
    result = {"tasks": [name for name, _ in everything], "kernel_cache": folder, "seconds": seconds}
    report(arguments, result, f"all kernels are compiled, {where} ({seconds:.1f} s)")


def warm_up_training(cell: str) -> None:
    """Compile what training a language model of this cell takes."""
    began = time.perf_counter()
    say("preparing the kernels: compiled at the first time, which takes some seconds, then cached")
    _train_language_model(cell, "float32")
    say(f"the kernels are ready after {time.perf_counter() - began:.1f} s")


def tasks(dtypes=DTYPES) -> Iterator[tuple[str, Callable[[], None]]]:
    """Names, and functions that use a kernel or several, in every form there is."""
    for dtype in dtypes:
        for cell in language_model.CELLS:
            yield f"{cell} {dtype}", functools.partial(_train_language_model, cell, dtype)
            yield f"{cell} of tokens {dtype}", functools.partial(_train_language_model, cell, dtype, embedding=0)
        for nonlinearity in ("tanh", "relu", "sigmoid"):
            yield f"rnn {nonlinearity} {dtype}", functools.partial(_train_rnn, nonlinearity, dtype)
        yield f"streaming {dtype}", functools.partial(_stream, dtype)
        yield f"jordan {dtype}", functools.partial(_train_jordan, dtype)
        yield f"layers {dtype}", functools.partial(_use_layers, dtype)
        yield f"losses {dtype}", functools.partial(_use_losses, dtype)
        yield f"optimizers {dtype}", functools.partial(_use_optimizers, dtype)


def _train_language_model(cell, dtype, embedding=_SIZE):
    model = language_model.build(cell, embedding=embedding, hidden=_SIZE, dtype=dtype)
    trainer = Trainer(model, losses.CrossEntropy(), optim.Adam(), bptt=Full(), clip_norm=1.0)
    tokens = np.zeros((_STEPS, _BATCH), np.int64)
    trainer.step(tokens, tokens)
    trainer.evaluate([(tokens, tokens)])
    model.step(tokens[0])


def _floats(*shape, dtype):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def _forward_and_backward(layer, x):
    """With and without lengths."""
    workspace = layer.workspace(_STEPS, _BATCH)
    for lengths in (None, np.array([1, _STEPS])):
        y, _ = layer.forward(x, lengths=lengths, workspace=workspace)
        layer.backward(np.ones_like(y), workspace=workspace)
        layer.forward(x, lengths=lengths)


def _train_rnn(nonlinearity, dtype):
    layer = layers.RNN(_SIZE, _SIZE, nonlinearity=nonlinearity, bidirectional=True, dtype=dtype, seed=0)
    _forward_and_backward(layer, _floats(_STEPS, _BATCH, _SIZE, dtype=dtype))


def _train_jordan(dtype):
    layer = layers.Jordan(_SIZE, _SIZE, _SIZE, dtype=dtype, seed=0)
    _forward_and_backward(layer, _floats(_STEPS, _BATCH, _SIZE, dtype=dtype))


def _stream(dtype):
    x, h, c = (_floats(_BATCH, _SIZE, dtype=dtype) for _ in range(3))
    rnns = [layers.RNN(_SIZE, _SIZE, nonlinearity=name, dtype=dtype) for name in ("tanh", "relu", "sigmoid")]
    gru, lstm = layers.GRU(_SIZE, _SIZE, dtype=dtype), layers.LSTM(_SIZE, _SIZE, dtype=dtype)
    for rnn in rnns:
        kernels.rnn_step(rnn.kernel_weights(), x, h)
    kernels.gru_step(gru.kernel_weights(), x, h)
    kernels.lstm_step(lstm.kernel_weights(), x, h, c)
    for layer in (*rnns, gru, lstm):
        layer.step(x)
        layer.step(x[0])


def _use_layers(dtype):
    x = _floats(_STEPS, _BATCH, _SIZE, dtype=dtype)
    tokens = np.zeros((_STEPS, _BATCH), np.int64)
    for first in (layers.OneHot(_SIZE, dtype=dtype), layers.Embedding(_SIZE, _SIZE, dtype=dtype)):
        _forward_and_backward(first, tokens)
    activations = layers.Tanh, layers.ReLU, layers.Sigmoid, layers.Dropout
    for middle in (*activations, layers.Last, layers.MeanPool, layers.MaxPool):
        _forward_and_backward(middle(dtype=dtype), x)
    _forward_and_backward(layers.ActivityRegularization(dtype=dtype), x)
    _forward_and_backward(Sequential(layers.Last(dtype=dtype), layers.Repeat(_STEPS)), x)
    _forward_and_backward(Sequential(layers.Linear(_SIZE, _SIZE, dtype=dtype)), x)


def _use_losses(dtype):
    y = _floats(_STEPS, _BATCH, _SIZE, dtype=dtype)
    for mask in (np.ones((_STEPS, _BATCH), np.bool_), np.ones((_STEPS, _BATCH))):
        losses.CrossEntropy()(y, np.zeros((_STEPS, _BATCH), np.int64), mask=mask)
        for loss in (losses.MSE(), losses.MAE(), losses.Huber(), losses.BinaryCrossEntropy()):
            loss(y, np.zeros_like(y), mask=mask)
        losses.Quantile((0.5,))(y, np.zeros_like(y), mask=mask)


def _use_optimizers(dtype):
    for optimizer in (optim.SGD(0.1), optim.RMSprop(), optim.Adagrad(), optim.Adam(), optim.AdamW()):
        model = layers.Linear(_SIZE, _SIZE, dtype=dtype)
        optimizer.step(model)
        optim.clip_gradients(model, 1.0, 1.0)
