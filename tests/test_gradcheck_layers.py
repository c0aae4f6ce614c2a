"""Every layer, loss and option: analytic gradients against central differences in float64, below 1e-7."""

import numpy as np
import pytest

import fastrnn

T, B, F, C = 5, 3, 4, 3
D = {"dtype": "float64"}


def _recurrent(cell, seed=0, **options):
    return getattr(fastrnn, cell)(F, 5, **options, seed=seed, **D)


RECURRENT = {
    "lstm": lambda: [_recurrent("LSTM")],
    "lstm-no-bias": lambda: [_recurrent("LSTM", bias=False)],
    "lstm-stacked-dropout": lambda: [_recurrent("LSTM", num_layers=2, dropout=0.3)],
    "lstm-bidirectional-stacked": lambda: [_recurrent("LSTM", num_layers=2, bidirectional=True)],
    "gru": lambda: [_recurrent("GRU")],
    "gru-bidirectional-dropout": lambda: [_recurrent("GRU", num_layers=2, bidirectional=True, dropout=0.4)],
    "gru-reset-before": lambda: [_recurrent("GRU", num_layers=2, bidirectional=True, reset_after=False)],
    "rnn-tanh": lambda: [_recurrent("RNN")],
    "rnn-relu": lambda: [_recurrent("RNN", nonlinearity="relu")],
    "rnn-sigmoid-stacked": lambda: [_recurrent("RNN", nonlinearity="sigmoid", num_layers=3)],
}
OTHERS = {
    "linear": lambda: [fastrnn.Linear(F, 6, seed=0, **D)],
    "linear-no-bias": lambda: [fastrnn.Linear(F, 6, bias=False, seed=0, **D)],
    "tanh": lambda: [fastrnn.Linear(F, 5, seed=0, **D), fastrnn.Tanh()],
    "relu": lambda: [fastrnn.Linear(F, 5, seed=0, **D), fastrnn.ReLU()],
    "sigmoid": lambda: [fastrnn.Linear(F, 5, seed=0, **D), fastrnn.Sigmoid()],
    "dropout": lambda: [fastrnn.Dropout(0.5, seed=0, **D), _recurrent("GRU")],
    "last": lambda: [_recurrent("LSTM"), fastrnn.Last()],
    "last-of-both": lambda: [_recurrent("LSTM", bidirectional=True), fastrnn.Last(bidirectional=True)],
    "mean-pool": lambda: [_recurrent("GRU"), fastrnn.MeanPool()],
    "max-pool": lambda: [_recurrent("GRU"), fastrnn.MaxPool()],
}
TOKENS = {
    "embedding": lambda: [fastrnn.Embedding(7, F, seed=0, **D), _recurrent("LSTM")],
    "one-hot": lambda: [fastrnn.OneHot(F), _recurrent("RNN")],
}
LOSSES = {
    "cross-entropy": lambda reduction: fastrnn.CrossEntropy(reduction=reduction),
    "cross-entropy-smooth": lambda reduction: fastrnn.CrossEntropy(label_smoothing=0.2, reduction=reduction),
    "mse": lambda reduction: fastrnn.MSE(reduction=reduction),
    "mae": lambda reduction: fastrnn.MAE(reduction=reduction),
    "huber": lambda reduction: fastrnn.Huber(delta=0.3, reduction=reduction),
    "binary": lambda reduction: fastrnn.BinaryCrossEntropy(reduction=reduction),
}


def _batch(model, rng, tokens, batch_first=False):
    shape = (B, T) if batch_first else (T, B)
    x = rng.integers(0, F, shape) if tokens else rng.standard_normal((*shape, F))
    return x, rng.standard_normal(model.forward(x)[0].shape)


def _state(model, rng):
    """A random initial state for every layer that has one."""
    x = np.zeros((1, B), np.int64) if model.layers[0]._step_dimensions() == 1 else np.zeros((1, B, F))

    def drawn(state):
        return tuple(drawn(s) for s in state) if isinstance(state, tuple) else rng.standard_normal(state.shape)

    return tuple(None if s is None else drawn(s) for s in model.forward(x)[1])


@pytest.mark.parametrize("lengths", [None, [2, 5, 1]], ids=["full", "ragged"])
@pytest.mark.parametrize("name", [*RECURRENT, *OTHERS, *TOKENS])
def test_gradcheck_layer(name, lengths):
    rng = np.random.default_rng(1)
    model = fastrnn.Sequential(*{**RECURRENT, **OTHERS, **TOKENS}[name]())
    x, targets = _batch(model, rng, name in TOKENS)
    report = fastrnn.gradcheck(model, fastrnn.MSE(), x, targets, _state(model, rng), lengths=lengths)
    assert report.ok and report.max_error < 1e-7, str(report)


def test_gradcheck_batch_first():
    rng = np.random.default_rng(2)
    model = fastrnn.Sequential(_recurrent("LSTM", bidirectional=True), fastrnn.Linear(10, C, **D), batch_first=True)
    x, targets = _batch(model, rng, False, batch_first=True)
    report = fastrnn.gradcheck(model, fastrnn.MSE(), x, targets, lengths=[5, 3, 2])
    assert report.ok and report.max_error < 1e-7, str(report)


@pytest.mark.parametrize("weighted", [False, True], ids=["mask", "weights"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "sequence"])
@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck_loss(name, reduction, weighted):
    rng = np.random.default_rng(3)
    model = fastrnn.Sequential(_recurrent("RNN"), fastrnn.Linear(5, C, seed=1, **D))
    x = rng.standard_normal((T, B, F))
    if name.startswith("cross"):
        targets = rng.integers(0, C, (T, B))
        targets[1, 1] = -100  # ignored
    else:
        targets = rng.random((T, B, C))
    mask = rng.random((T, B)) < 0.7
    if weighted:
        mask = mask * rng.uniform(0.2, 3, (T, B))
    report = fastrnn.gradcheck(model, LOSSES[name](reduction), x, targets, lengths=[4, 5, 2], mask=mask)
    assert report.ok and report.max_error < 1e-7, str(report)


def test_gradcheck_single_layer():
    rng = np.random.default_rng(4)
    layer = fastrnn.LSTM(F, 5, seed=0, **D)
    x, targets = rng.standard_normal((T, B, F)), rng.standard_normal((T, B, 5))
    report = fastrnn.gradcheck(layer, fastrnn.Huber(), x, targets)
    assert report.ok and report.max_error < 1e-7, str(report)
