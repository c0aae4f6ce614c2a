"""`Residual` and `Concatenated`: their layers one by one, in any nesting, against sums and columns made by hand."""

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import bptt, storage
from fastrnn.bptt import layers_of, map_state

T, B, F = 7, 4, 5
LENGTHS = np.array([7, 1, 4, 6])
D = {"dtype": "float64"}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def gru(inputs=F, hidden=F, seed=1, **options):
    return fastrnn.GRU(inputs, hidden, seed=seed, **options, **D)


def lstm(inputs=F, hidden=F, seed=2, **options):
    return fastrnn.LSTM(inputs, hidden, seed=seed, **options, **D)


def linear(inputs=F, outputs=F, seed=3):
    return fastrnn.Linear(inputs, outputs, seed=seed, **D)


MODELS = {
    "residual gru": lambda **o: fastrnn.Residual(gru(), **o),
    "residual lstm stack": lambda **o: fastrnn.Residual(lstm(num_layers=2), **o),
    "residual block": lambda **o: fastrnn.Residual(
        fastrnn.Sequential(linear(F, 3), fastrnn.Tanh(), linear(3, F, seed=4)), **o
    ),
    "dense skips": lambda **o: fastrnn.Concatenated(lstm(F, 3), gru(3, 4), linear(4, 2), **o),
    "dense skips with input": lambda **o: fastrnn.Concatenated(lstm(F, 3), fastrnn.Tanh(), include_input=True, **o),
    "in a model": lambda **o: fastrnn.Sequential(
        linear(F, 4),
        fastrnn.Residual(gru(4, 4)),
        fastrnn.Concatenated(
            fastrnn.Residual(fastrnn.Sequential(fastrnn.Tanh(), lstm(4, 4))), gru(4, 3, seed=5), include_input=True
        ),
        linear(11, 2, seed=6),
        **o,
    ),
    "without parameters": lambda **o: fastrnn.Residual(fastrnn.Concatenated(fastrnn.Tanh(**D)), **o),
}
every_model = pytest.mark.parametrize("name", MODELS)
with_lengths = pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])


# ---- by hand ----


def cleared(array, lengths):
    """A copy of a time-major array with zeros past the sequences' ends."""
    if lengths is None:
        return array.copy()
    return np.where((np.arange(len(array))[:, None] < lengths)[..., None], array, 0)


def taped(layer, x, lengths, state=None):
    """Output, final state, and dy -> dx, of the layers' own public calls; sums and columns by NumPy. Time first."""
    if isinstance(layer, fastrnn.Residual):
        y, new, back = taped(layer.layers[0], x, lengths, state)
        return cleared(x, lengths) + y, new, lambda dy: cleared(dy, lengths) + back(dy)
    if not isinstance(layer, (fastrnn.Sequential, fastrnn.Concatenated)):
        workspace = layer.workspace(x.shape[0], x.shape[1])
        y, new = layer.forward(x, state, lengths=lengths, workspace=workspace)
        new = map_state(np.copy, new)
        return y.copy(), new, lambda dy: layer.backward(dy, workspace=workspace)[0].copy()
    outputs, states, backs = [x], [], []
    for i, member in enumerate(layer.layers):
        y, new, back = taped(member, outputs[-1], lengths, None if state is None else state[i])
        outputs.append(y), states.append(new), backs.append(back)
    if isinstance(layer, fastrnn.Sequential):

        def all_back(dy):
            for back in reversed(backs):
                dy = back(dy)
            return dy

        return outputs[-1], tuple(states), all_back
    parts = [cleared(x, lengths), *outputs[1:]] if layer.include_input else outputs[1:]

    def columns_back(dy):
        columns = np.split(dy, np.cumsum([part.shape[-1] for part in parts])[:-1], axis=-1)
        dx = 0
        for back in reversed(backs):
            dx = back(columns.pop() + dx)
        return cleared(columns.pop(), lengths) + dx if columns else dx

    return np.concatenate(parts, axis=-1), tuple(states), columns_back


def assert_states_equal(ours, theirs):
    found = ([], [])
    for state, arrays in zip((ours, theirs), found, strict=True):
        map_state(lambda array, arrays=arrays: arrays.append(array), state)
    assert str(map_state(np.shape, ours)) == str(map_state(np.shape, theirs))
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def check_against_layers(model, x, lengths):
    """Forward, backward, workspaces and `batch_first` of a model of either order: bit for bit what its layers do."""
    first = model.batch_first
    steps, batch = x.shape[:2]
    swap = (lambda a: np.ascontiguousarray(a.swapaxes(0, 1))) if first else (lambda a: a)
    padded = swap(np.where(cleared(np.ones_like(x), lengths) > 0, x, np.nan))  # padding is not read
    workspace = model.workspace(steps + 1, batch + 2)
    inferred, state = model.forward(padded, lengths=lengths)
    y, kept_state = model.forward(padded, lengths=lengths, workspace=workspace)
    assert_states_equal(kept_state, state)
    np.testing.assert_array_equal(y, inferred)
    dy = np.where(cleared(np.ones_like(swap(y)), lengths) > 0, normal(*swap(y).shape, seed=9), np.nan)
    dx = swap(model.backward(swap(dy), workspace=workspace)[0]).copy()
    gradients = model.gradients_to_vector()
    model.zero_grad()
    model.batch_first = False
    expected, states, back = taped(model, x, lengths)
    np.testing.assert_array_equal(swap(inferred), expected)
    assert_states_equal(state, states)
    np.testing.assert_array_equal(dx, back(np.nan_to_num(dy)))
    np.testing.assert_array_equal(gradients, model.gradients_to_vector())
    again, final = model.forward(x, state, lengths=lengths)  # a returned state goes in again
    expected, states, _ = taped(model, x, lengths, state)
    np.testing.assert_array_equal(again, expected)
    assert_states_equal(final, states)


@every_model
@with_lengths
@pytest.mark.parametrize("batch_first", [False, True])
def test_container_is_its_layers(name, lengths, batch_first):
    check_against_layers(MODELS[name](batch_first=batch_first), normal(T, B, F), lengths)


@st.composite
def layers(draw, width, depth):
    """A layer or a container, and the width of its output."""
    kind = draw(st.sampled_from(["gru", "lstm", "linear", "tanh", "residual", "concatenated", "sequential"]))
    seed = draw(st.integers(0, 99))
    if kind in ("gru", "lstm", "linear"):
        out = draw(st.integers(1, 4))
        return {"gru": gru, "lstm": lstm, "linear": linear}[kind](width, out, seed=seed), out
    if kind == "tanh" or depth == 0:
        return fastrnn.Tanh(**D), width
    chain, widths = [], [width]
    for _ in range(draw(st.integers(1, 2))):
        layer, out = draw(layers(widths[-1], depth - 1))
        chain.append(layer), widths.append(out)
    if kind == "concatenated":
        include = draw(st.booleans())
        return fastrnn.Concatenated(*chain, include_input=include), sum(widths if include else widths[1:])
    if any(isinstance(layer, fastrnn.Sequential) for layer in chain):  # no other may hold one directly
        return fastrnn.Concatenated(*chain), sum(widths[1:])
    if kind == "sequential":
        return fastrnn.Sequential(*chain), widths[-1]
    return fastrnn.Residual(fastrnn.Sequential(*chain, linear(widths[-1], width, seed=seed))), width


@settings(max_examples=40)
@given(data=st.data())
def test_container_any_nesting(data, tmp_path_factory):
    width, batch = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    model, out = data.draw(layers(width, 3))
    model = fastrnn.Concatenated(model, batch_first=data.draw(st.booleans()))
    assert model._output_features(width) == out and all(not hasattr(layer, "layers") for layer in layers_of(model))
    steps = data.draw(st.integers(1, 5))
    ragged = data.draw(st.booleans())
    lengths = np.array(data.draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch))) if ragged else None
    x = normal(steps, batch, width, seed=data.draw(st.integers(0, 99)))
    for twin in (pickle.loads(pickle.dumps(model)), saved_and_loaded(model, tmp_path_factory)):
        assert repr(twin) == repr(model) and list(twin.state_dict()) == list(model.state_dict())
        np.testing.assert_array_equal(twin.parameters_to_vector(), model.parameters_to_vector())
    check_against_layers(model, x, lengths)  # leaves the model time first
    y = model.forward(x)[0]
    state, single = None, None
    for t in range(steps):
        y_t, state = model.step(x[t], state)
        np.testing.assert_array_equal(y_t, y[t])
        y_t, single = model.step(x[t, 0], single)
        np.testing.assert_array_equal(y_t, y[t, 0])
    alone = model.forward(x[:, :1])[0]
    np.testing.assert_array_equal(alone, y[:, :1])


def saved_and_loaded(model, tmp_path_factory):
    pytest.importorskip("safetensors")
    path = tmp_path_factory.mktemp("files") / "m"
    fastrnn.save(model, path)
    return fastrnn.load(path)


# ---- gradients ----


@every_model
@with_lengths
def test_container_gradcheck(name, lengths):
    model = MODELS[name]()
    x = normal(T, B, F)
    targets = normal(*model.forward(x)[0].shape, seed=1)
    state = map_state(lambda array: normal(*array.shape, seed=2), model.forward(x)[1])
    report = fastrnn.gradcheck(model, fastrnn.MSE(), x, targets, state, lengths=lengths, max_elements=40)
    assert report.ok, str(report)


def test_container_gradcheck_bidirectional_dropout_and_tokens():
    model = fastrnn.Sequential(
        fastrnn.Concatenated(fastrnn.Embedding(6, 4, seed=0, **D), lstm(4, 3, bidirectional=True)),
        fastrnn.Residual(fastrnn.Sequential(fastrnn.Dropout(0.4, seed=0), gru(10, 5, bidirectional=True))),
    )
    x = np.random.default_rng(0).integers(0, 6, (T, B))
    report = fastrnn.gradcheck(model, fastrnn.MSE(), x, normal(T, B, 10), lengths=LENGTHS, max_elements=40)
    assert report.ok, str(report)
    with pytest.raises(ValueError, match="bidirectional"):
        bptt.Truncated(2).check(model)
    with pytest.raises(ValueError, match="unidirectional"):
        model.step(x[0])


def test_container_rules_and_resets():
    """Truncated to single steps, the gradient is the sum of single steps'; resets reach the layers within."""
    model, x = MODELS["in a model"](), normal(T, B, F)
    targets = normal(T, B, 2, seed=1)
    value, state = bptt.Truncated(1).gradients(model, fastrnn.MSE(reduction="sum"), x, targets)
    gradients, total, carried = model.gradients_to_vector(), 0.0, None
    state = map_state(np.copy, state)
    model.zero_grad()
    for t in range(T):
        loss = fastrnn.MSE(reduction="sum")
        part, carried = bptt.Full().gradients(model, loss, x[t : t + 1], targets[t : t + 1], carried)
        carried, total = map_state(np.copy, carried), total + part
    np.testing.assert_allclose(value, total, rtol=1e-13)
    np.testing.assert_allclose(gradients, model.gradients_to_vector(), rtol=1e-12, atol=1e-14)
    assert_states_equal(state, carried)
    resets = np.array([True, False, True, False])
    y_t, new = model.step(x[0], state, resets=resets)
    fresh, old = model.step(x[0]), model.step(x[0], state)
    np.testing.assert_array_equal(y_t, np.where(resets[:, None], fresh[0], old[0]))
    np.testing.assert_array_equal(new[1], np.where(resets[None, :, None], fresh[1][1], old[1][1]))


def test_container_trains_and_resumes(tmp_path):
    """A trainer with truncation, and a checkpoint of it."""
    pytest.importorskip("safetensors")
    x = normal(4, T, B, F)
    targets = np.cumsum(x[..., :2], axis=1)

    def trainer():
        net = fastrnn.Sequential(fastrnn.Concatenated(lstm(F, 6), fastrnn.Residual(gru(6, 6))), linear(12, 2))
        return fastrnn.Trainer(net, fastrnn.MSE(), fastrnn.Adam(0.02), bptt=bptt.Truncated(4), clip_norm=1.0)

    class Stream(list):
        stateful = True

    batches, one = Stream(zip(x, targets, strict=True)), trainer()
    history = one.fit(batches, epochs=15, progress=False)
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    one.batch, one._state = 2, one._buffers.keep_state("carried", one.step(x[0], targets[0])[1])
    one.save_checkpoint(tmp_path / "c")
    other = trainer()
    other.load_checkpoint(tmp_path / "c")
    assert_states_equal(other._state, one._state)
    one.fit(batches, progress=False), other.fit(batches, progress=False)
    np.testing.assert_array_equal(one.model.parameters_to_vector(), other.model.parameters_to_vector())


# ---- workspaces ----


class _Reporting(fastrnn.GRU):
    """Says what its workspace was asked."""

    def _backward(self, dy, dstate, workspace):
        self.seen = workspace.repeatable, workspace.carry_factor, workspace.penalty_scale
        return super()._backward(dy, dstate, workspace)

    def _states_before(self, workspace, steps, rows):
        return (self.hidden_size, steps, rows)


def test_container_passes_on_what_a_workspace_is_told():
    inner, deep = _Reporting(F, F, **D), _Reporting(F, F, **D)
    model = fastrnn.Sequential(
        fastrnn.Residual(inner), fastrnn.Concatenated(fastrnn.Residual(fastrnn.Sequential(fastrnn.Tanh(), deep)))
    )
    workspace = model.workspace(T, B)
    with pytest.raises(ValueError, match="forward pass"):
        workspace.states()
    workspace.repeatable, workspace.carry_factor, workspace.penalty_scale = True, 0.5, 0.25
    model.forward(normal(T, B, F), workspace=workspace)
    for part, name in ((workspace.parts[0].parts[0], "inner"), (workspace.parts[1].parts[0].parts[0].parts[1], "deep")):
        part.states, part.gates = (lambda name=name: [name]), (lambda name=name: [name, "gates"])
    assert workspace.states() == [["inner"], [[None, ["deep"]]]]
    assert workspace.gates() == [["inner", "gates"], [[None, ["deep", "gates"]]]]
    assert model._states_before(workspace, 1, 2) == ((F, 1, 2), ((None, (F, 1, 2)),))
    model.backward(np.ones((T, B, F)), workspace=workspace)
    assert inner.seen == deep.seen == (True, 0.5, 0.25)
    workspace.repeatable = False
    model.forward(normal(T, B, F), workspace=workspace)
    model.backward(np.ones((T, B, F)), workspace=workspace)
    assert deep.seen == (False, 0.5, 0.25)
    with pytest.raises(ValueError, match="forward pass"):
        model.backward(np.ones((T, B, F)), workspace=workspace)


def test_container_goes_back_again():
    """A repeatable workspace: the same gradient a second time, added to the first."""
    model = fastrnn.Concatenated(
        fastrnn.Residual(gru()), fastrnn.Dropout(0.3, seed=0), linear(F, 2), include_input=True
    )
    workspace, dy = model.workspace(T, B), normal(T, B, 2 * F + F + 2, seed=1)
    workspace.repeatable = True
    model.forward(normal(T, B, F), lengths=LENGTHS, workspace=workspace)
    dx = model.backward(dy, workspace=workspace)[0].copy()
    once = model.gradients_to_vector()
    np.testing.assert_array_equal(model.backward(dy, workspace=workspace)[0], dx)
    np.testing.assert_allclose(model.gradients_to_vector(), 2 * once, rtol=1e-13)


@pytest.mark.parametrize("name", ["residual gru", "dense skips with input", "in a model"])
def test_container_takes_its_own_views(name):
    """Outputs, gradients and states that are views of the workspace may go in again."""
    model = MODELS[name]()
    workspace, other = model.workspace(T, B), model.workspace(T, B)
    x, state = normal(T, B, F), None
    y, state = model.forward(x, state, workspace=workspace)
    dx, _ = model.backward(np.ones(y.shape), workspace=workspace)
    copies = dx.copy(), map_state(np.copy, state)
    y, _ = model.forward(dx, state, workspace=workspace)
    expected = model.forward(*copies, workspace=other)[0]
    np.testing.assert_array_equal(y, expected)
    if y.shape == x.shape:
        copy_of_y = y.copy()
        np.testing.assert_array_equal(model.forward(y, workspace=workspace)[0], model.forward(copy_of_y)[0])


def test_container_of_layers_with_options():
    """Tokens that go straight in, learned initial states, resets, and the states of every step."""
    model = fastrnn.Concatenated(
        gru(initial_state="learned"), fastrnn.Residual(gru(initial_state="learned", seed=4)), linear(F, 2)
    )
    x, targets = np.random.default_rng(0).integers(0, F, (T, B)), normal(T, B, 2 * F + 2)
    report = fastrnn.gradcheck(model, fastrnn.MSE(), x, targets, lengths=LENGTHS, max_elements=40)
    assert report.ok and {"0.initial_h", "1.0.initial_h"} <= set(report.errors), str(report)
    resets = np.random.default_rng(1).random((T, B)) < 0.3
    workspace = model.workspace(T, B)
    y, _ = model.forward(x, resets=resets, workspace=workspace)
    state = None
    for t in range(T):
        y_t, state = model.step(x[t], state, resets=resets[t])
        np.testing.assert_array_equal(y_t, y[t])
    first, second, third = workspace.states()
    np.testing.assert_array_equal(first[0]["h"], y[..., :F])
    np.testing.assert_array_equal(first[0]["h"] + second[0]["h"], y[..., F : 2 * F])
    assert third is None
    before = model._states_before(workspace, np.array([3, 5]), np.array([2, 0]))
    there = [0 if resets[t, b] else 1 for t, b in ((3, 2), (5, 0))]
    for i, (t, b) in enumerate(((3, 2), (5, 0))):
        if there[i]:
            np.testing.assert_array_equal(before[0][0, i], y[t - 1, b, :F])


# ---- parameters ----


def test_container_one_flat_buffer_to_the_leaves():
    model = MODELS["in a model"]()
    assert [name for name in model.state_dict() if "weight_ih" in name] == [
        "1.0.weight_ih_l0", "2.0.0.1.weight_ih_l0", "2.1.weight_ih_l0",
    ]  # fmt: skip
    for layer in layers_of(model):
        if layer.num_parameters:
            assert np.shares_memory(layer.parameters.values, model.parameters.values)
            assert np.shares_memory(layer.parameters.gradients, model.parameters.gradients)
    middle = model.layers[2]
    vector = np.arange(model.num_parameters, dtype=float)
    model.vector_to_parameters(vector)
    leaves = np.concatenate([layer.parameters_to_vector() for layer in layers_of(model)])
    np.testing.assert_array_equal(leaves, vector)
    start = sum(layer.num_parameters for layer in model.layers[:2])
    np.testing.assert_array_equal(middle.parameters_to_vector(), vector[start : start + middle.num_parameters])
    model.parameters.gradients[:] = 1
    middle.layers[0].zero_grad()
    cleared = {name for name, array in model.grad_dict().items() if not array.any()}
    assert cleared == {name for name in model.state_dict() if name.startswith("2.0.")}


def test_container_joining_keeps_values_and_gradients_and_packs_anew():
    inner = lstm()
    inner.parameters.gradients[:] = 7
    values, x = inner.parameters_to_vector(), normal(T, B, F)
    expected = inner.forward(x)[0] + x
    residual = fastrnn.Residual(inner)
    np.testing.assert_array_equal(residual.forward(x)[0], expected)
    model = fastrnn.Sequential(residual, fastrnn.Tanh())
    np.testing.assert_array_equal(model.forward(x)[0], fastrnn.Tanh(**D).forward(expected)[0])
    np.testing.assert_array_equal(model.parameters_to_vector(), values)
    np.testing.assert_array_equal(inner.gradients_to_vector(), np.full(values.size, 7.0))
    for change in (
        lambda: inner.vector_to_parameters(2 * values),
        lambda: residual.vector_to_parameters(3 * values),
        lambda: model.vector_to_parameters(4 * values),
        lambda: fastrnn.SGD(0.1).step(model),
    ):
        before = model.forward(x)[0]
        change()
        fresh = fastrnn.Sequential(fastrnn.Residual(lstm(seed=0)), fastrnn.Tanh())
        fresh.load_state_dict(model.state_dict())
        np.testing.assert_array_equal(model.forward(x)[0], fresh.forward(x)[0])
        assert (model.forward(x)[0] != before).any()


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_container_copies_are_independent(how):
    model = fastrnn.Sequential(
        linear(), fastrnn.Residual(fastrnn.Sequential(fastrnn.Dropout(0.5, seed=0), gru())), batch_first=True
    )
    twin, x = how(model), normal(B, T, F)
    assert repr(twin) == repr(model) and twin.layers[1].batch_first
    results = [net.forward(x, workspace=net.workspace(T, B))[0].copy() for net in (model, twin)]
    np.testing.assert_array_equal(*results)  # the same dropout
    twin.vector_to_parameters(np.zeros(twin.num_parameters))
    assert model.parameters_to_vector().all()


def test_container_dtype_follows():
    model = fastrnn.Sequential(fastrnn.Residual(fastrnn.Residual(fastrnn.Tanh())), linear())
    assert all(layer.dtype == np.float64 for layer in (*layers_of(model), *model.layers))
    np.testing.assert_allclose(model.layers[0].forward(np.ones((1, 1, F)))[0], 2 + np.tanh(1), rtol=1e-14)


# ---- misfits ----


def twice_as_wide():
    return fastrnn.Concatenated(fastrnn.Tanh(), fastrnn.Tanh())


MISFITS = {
    "wider": (lambda: fastrnn.Residual(linear(F, F + 1)), "as wide"),
    "two directions": (lambda: fastrnn.Residual(gru(bidirectional=True)), "as wide"),
    "doubled": (lambda: fastrnn.Residual(twice_as_wide()), "as wide"),
    "tokens": (lambda: fastrnn.Residual(fastrnn.Embedding(F, F)), "integers"),
    "one-hot": (lambda: fastrnn.Concatenated(fastrnn.OneHot(F), include_input=True), "integers"),
    "pooled": (lambda: fastrnn.Residual(fastrnn.Last()), "steps"),
    "pooled in skips": (lambda: fastrnn.Concatenated(gru(), fastrnn.MeanPool()), "layer 1, MeanPool"),
    "repeated": (lambda: fastrnn.Residual(fastrnn.Repeat(3)), "steps"),
    "autoencoder": (lambda: fastrnn.Residual(fastrnn.Sequential(fastrnn.Last(), fastrnn.Repeat(T))), "steps"),
    "no layer": (lambda: fastrnn.Concatenated(), "at least one"),
    "neighbours": (lambda: fastrnn.Concatenated(gru(F, 3), gru(4, 4)), "layer 1, GRU"),
    "neighbours within": (
        lambda: fastrnn.Sequential(linear(F, 4), fastrnn.Residual(gru())), "layer 1, Residual, .* layer 0, GRU"
    ),
    "odd width": (lambda: fastrnn.Sequential(twice_as_wide(), fastrnn.Linear(3, 3)), "layer 1"),
    "after pooling": (
        lambda: fastrnn.Sequential(fastrnn.GRU(F, F), fastrnn.Last(), fastrnn.Residual(fastrnn.GRU(F, F))), "layer 2"
    ),
    "dtypes": (lambda: fastrnn.Sequential(fastrnn.Residual(gru()), fastrnn.Linear(F, F)), "one dtype"),
    "taken": (lambda: fastrnn.Residual(fastrnn.Residual(gru()).layers[0]), "belongs"),
    "twice": (lambda: fastrnn.Concatenated(*[fastrnn.Tanh()] * 2), "belongs"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_container_refuses_misfits(name):
    make, match = MISFITS[name]
    with pytest.raises(ValueError, match=match):
        make()


def test_container_refuses_wrong_arguments():
    for wrong in (None, 5, fastrnn.GRU, np.tanh, [fastrnn.Tanh()]):
        for kind in (fastrnn.Residual, fastrnn.Concatenated):
            with pytest.raises(TypeError, match="layer 0"):
                kind(wrong)
    for wrong in (1, None, "yes"):
        with pytest.raises(TypeError, match="include_input"):
            fastrnn.Concatenated(fastrnn.Tanh(), include_input=wrong)
        with pytest.raises(TypeError, match="batch_first"):
            fastrnn.Residual(fastrnn.Tanh(), batch_first=wrong)
    model = fastrnn.Residual(fastrnn.Sequential(twice_as_wide(), fastrnn.Linear(10, 5)))
    model.forward(np.ones((2, 5), "f"))
    for shape in ((2, 10), (2, 4), (T, B, 10), (5,)):
        with pytest.raises(ValueError, match="x"):
            model.forward(np.ones(shape, "f"))
    with pytest.raises(TypeError, match="x"):
        model.forward(np.ones((2, 5), int))
    skips = MODELS["dense skips"]()
    good = skips.forward(normal(T, B, F))[1]
    for state in (good[:2], good[0], (good[0], good[1], good[1]), ((good[0][0],), good[1], None), 5.0):
        with pytest.raises((TypeError, ValueError), match="state"):
            skips.forward(normal(T, B, F), state)
        with pytest.raises((TypeError, ValueError), match="state"):
            skips.step(normal(B, F), state)
    with pytest.raises(ValueError, match="state"):
        MODELS["residual gru"]().forward(normal(T, B, F), np.zeros((2, B, F)))


# ---- files ----


@pytest.fixture
def described(tmp_path):
    """A function that writes a file with the description of a model changed, and returns its path."""
    pytest.importorskip("safetensors")
    model = fastrnn.Sequential(fastrnn.Residual(gru()), fastrnn.Concatenated(lstm(), include_input=True))

    def write(change):
        description = json.loads(json.dumps(storage.architecture(model)))
        change(description)
        storage._write(tmp_path / "m", "model", model.state_dict(), {"architecture": description})
        return tmp_path / "m"

    return write


ARCHITECTURES = {
    "two layers": lambda d: d["layers"][0]["layers"].append(d["layers"][0]["layers"][0]),
    "no layers": lambda d: d["layers"][0].update(layers=[]),
    "layers are no list": lambda d: d["layers"][0].update(layers="GRU"),
    "layers are missing": lambda d: d["layers"][1].pop("layers"),
    "unknown container": lambda d: d["layers"][0].update(type="Container"),
    "a number": lambda d: d["layers"][0].update(layers=[3]),
    "surplus": lambda d: d["layers"][1].update(code="print()"),
    "include_input": lambda d: d["layers"][1].update(include_input=3),
    "a model in a model": lambda d: d["layers"].append({"type": "Sequential", "batch_first": False, "layers": []}),
    "huge within": lambda d: d["layers"][0]["layers"][0]["config"].update(hidden_size=10**9),
    "another size within": lambda d: d["layers"][0]["layers"][0]["config"].update(hidden_size=4),
    "container as a layer": lambda d: d["layers"].append({"type": "Residual", "config": {}}),
    "layer as a container": lambda d: d["layers"][0]["layers"][0].update(layers=[]),
}


@pytest.mark.parametrize("change", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_container_architecture_in_a_file_is_checked(described, change):
    fastrnn.load(described(lambda description: None))
    with pytest.raises(fastrnn.FormatError, match="does not hold a usable model"):
        fastrnn.load(described(change))


@pytest.mark.parametrize("depth", [65, 300, 100_000])
def test_container_nested_without_end_in_a_file(tmp_path, depth):
    pytest.importorskip("safetensors")
    storage._write(tmp_path / "m", "model", {}, {"architecture": {}})
    content = (tmp_path / "m").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    layer = '{"type": "Tanh", "config": {}}'
    header["__metadata__"]["architecture"] = '{"type": "Residual", "layers": [' * depth + layer + "]}" * depth
    text = json.dumps(header).encode()
    (tmp_path / "m").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(fastrnn.FormatError):
        fastrnn.load(tmp_path / "m")


def test_container_nested_deeply_is_refused_when_saved(tmp_path):
    pytest.importorskip("safetensors")
    model = fastrnn.Tanh(**D)
    for _ in range(64):
        model = fastrnn.Residual(model)
    fastrnn.save(model, tmp_path / "m")
    assert fastrnn.load(tmp_path / "m").forward(np.zeros((1, 1, 1)))[0] == 0
    with pytest.raises(ValueError, match="at most 64"):
        fastrnn.save(fastrnn.Residual(model), tmp_path / "n")


@pytest.mark.parametrize("container", [fastrnn.Sequential, fastrnn.Residual, fastrnn.Concatenated])
def test_batch_first_is_set_for_all_layers_or_refused(container):
    model = container(fastrnn.GRU(3, 3, seed=0))
    with pytest.raises(TypeError, match="batch_first must be True or False, got 'no'"):
        model.batch_first = "no"
    assert model.batch_first is model.layers[0].batch_first is False
    model.batch_first = True
    assert model.batch_first is model.layers[0].batch_first is True
