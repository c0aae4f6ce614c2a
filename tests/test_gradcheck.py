"""`gradcheck`: agrees where gradients are right, notices where they are not, and leaves everything as it was."""

import numpy as np
import pytest

import fastrnn
from fastrnn.diagnostics import gradcheck

T, B, F, H, C = 6, 3, 3, 5, 4
LENGTHS = [6, 2, 4]


def language_model(**options):
    return fastrnn.Sequential(
        fastrnn.Embedding(C, F, dtype="float64", seed=0),
        fastrnn.LSTM(F, H, 2, dropout=0.3, dtype="float64", seed=1),
        fastrnn.Dropout(0.4, dtype="float64", seed=2),
        fastrnn.Linear(H, C, dtype="float64", seed=3),
        **options,
    )


def tokens(seed=0):
    return np.random.default_rng(seed).integers(0, C, (2, T, B))


def floats(features, seed=0):
    return np.random.default_rng(seed).standard_normal((T, B, features))


def test_dropout_is_frozen_and_nothing_changes():
    net, (x, targets) = language_model(), tokens()
    rng = np.random.default_rng(1)
    net.parameters.gradients[:] = rng.standard_normal(net.num_parameters)
    before = net.parameters_to_vector(), net.gradients_to_vector()
    random = [g.bit_generator.state for g in net._generators()]
    expected = net(x)[0]
    report = gradcheck(net, fastrnn.CrossEntropy(), x, targets, lengths=LENGTHS)
    assert report and report.ok and report.max_error < 1e-8, report
    assert set(report.errors) == {*net.state_dict(), "state[1][0]", "state[1][1]"}
    assert report.checked["1.weight_hh_l1"] == 4 * H * H
    np.testing.assert_array_equal(net.parameters_to_vector(), before[0])
    np.testing.assert_array_equal(net.gradients_to_vector(), before[1])
    np.testing.assert_array_equal(net(x)[0], expected)
    assert [g.bit_generator.state for g in net._generators()] == random


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_input_state_and_mask(reduction):
    net = fastrnn.LSTM(F, H, bidirectional=True, dtype="float64", seed=1)
    x, targets = floats(F), floats(2 * H, 1)
    state = tuple(np.random.default_rng(2).standard_normal((2, 2, B, H)))
    kept = x.copy(), [s.copy() for s in state]
    x[3:, 1] = np.nan
    mask = np.arange(T * B).reshape(T, B) % 3 > 0
    report = gradcheck(net, fastrnn.MSE(reduction=reduction), x, targets, state, lengths=LENGTHS, mask=mask)
    assert report.max_error < 1e-8, report
    assert {"x", "state[0]", "state[1]"} < set(report.errors) and report.checked["x"] == x.size
    np.testing.assert_array_equal(x[:3], kept[0][:3])
    for ours, theirs in zip(state, kept[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_kinks_are_stepped_around():
    net = fastrnn.RNN(F, H, nonlinearity="relu", dtype="float64", seed=1)
    x, targets = floats(F), floats(H, 1)
    targets = net(x)[0] + np.where(targets > 0, 1e-3, -1e-3)  # MAE's kinks lie within the first step's reach
    assert gradcheck(net, fastrnn.MAE(), x, targets).max_error < 1e-7


def test_kinks_of_quantiles():
    net = fastrnn.Sequential(fastrnn.RNN(F, H, dtype="float64", seed=1), fastrnn.Linear(H, 6, dtype="float64", seed=2))
    mask = np.random.default_rng(3).random((T, B))
    assert gradcheck(net, fastrnn.Quantile((0.1, 0.5, 0.9)), floats(F), floats(2, 1), mask=mask).max_error < 1e-7


def test_gradients_of_zero():
    net = fastrnn.Sequential(fastrnn.Linear(F, C, dtype="float64", seed=0), fastrnn.ReLU(dtype="float64"))
    net.vector_to_parameters(np.concatenate([np.zeros(F * C), np.full(C, -1.0)]))  # every unit is dead
    assert gradcheck(net, fastrnn.MSE(), floats(F), floats(C, 1)).max_error == 0


@pytest.mark.parametrize("part", ["parameters", "x", "state"])
@pytest.mark.parametrize("factor", [1 + 1e-5, -1, 0, np.nan])
def test_wrong_gradients_are_noticed(monkeypatch, part, factor):
    net = fastrnn.LSTM(F, H, dtype="float64", seed=1)
    right = net._backward

    def wrong(dy, dstate, workspace):
        dx, (dh, dc) = right(dy, dstate, workspace)
        if part == "parameters":
            net.parameters.gradient("weight_hh_l0")[0, 0] *= factor
            net.parameters.gradient("weight_hh_l0")[:] *= factor
        elif part == "x":
            dx[0] *= factor
        else:
            dc *= factor
        return dx, (dh, dc)

    monkeypatch.setattr(net, "_backward", wrong)
    report = gradcheck(net, fastrnn.MSE(), floats(F), floats(H, 1))
    guilty = {"parameters": "weight_hh_l0", "x": "x", "state": "state[1]"}[part]
    assert not report and not report.max_error < 1e-6
    assert [name for name, error in report.errors.items() if not error <= 1e-7] == [guilty]
    assert "DIFFER" in str(report)
    assert [line.split()[0] for line in str(report).splitlines() if line.endswith("WRONG")] == [guilty]


def test_large_tensors_are_sampled():
    net, (x, targets) = language_model(), tokens()
    report = gradcheck(net, fastrnn.CrossEntropy(), x, targets, max_elements=7)
    assert report.ok and set(report.checked.values()) <= {7, 4} and "agree" in str(report)
    again = gradcheck(net, fastrnn.CrossEntropy(), x, targets, max_elements=7)
    assert again.errors == report.errors


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_noticed_in_elements_that_are_not_drawn(monkeypatch, value):
    net = fastrnn.Linear(F, 50, dtype="float64", seed=1)
    right = net._backward

    def wrong(dy, dstate, workspace):
        result = right(dy, dstate, workspace)
        net.parameters.gradient("weight")[0, 0] = value
        return result

    monkeypatch.setattr(net, "_backward", wrong)
    report = gradcheck(net, fastrnn.MSE(), floats(F), floats(50, 1), max_elements=1)
    assert not report.ok and [name for name, error in report.errors.items() if not error <= 1e-7] == ["weight"]


class NoArray:
    def __array__(self, *_, **__):
        raise RuntimeError("none")


def test_refusals():
    x, targets = tokens()
    loss = fastrnn.CrossEntropy()
    with pytest.raises(ValueError, match="float64"):
        gradcheck(fastrnn.LSTM(F, H), fastrnn.MSE(), floats(F), floats(H))
    with pytest.raises(TypeError, match="x can't be taken as an array: none"):
        gradcheck(fastrnn.LSTM(F, H, dtype="float64"), fastrnn.MSE(), NoArray(), floats(H))
    with pytest.raises(TypeError, match="model"):
        gradcheck("model", loss, x, targets)
    for wrong in ({"eps": 0}, {"tolerance": -1}, {"max_elements": 0}, {"seed": -1}, {"lengths": [1, 2]}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            gradcheck(language_model(), loss, x, targets, **wrong)
    with pytest.raises(TypeError, match="loss"):
        gradcheck(language_model(), None, x, targets)
