"""Results do not depend, bit for bit, on threads, company in the batch, padding, workspaces or the way of calling."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn.layers import recurrent

T, B, F, H = 19, 7, 9, 21  # more steps than a stretch, odd sizes around the vector width
LENGTHS = np.array([19, 3, 16, 1, 17, 19, 8])

# few specialisations, as each takes seconds to compile: every cell, both precisions
STACKS = {
    "lstm": (fastrnn.LSTM, {"num_layers": 2, "bidirectional": True, "dtype": "float32"}),
    "gru": (fastrnn.GRU, {"num_layers": 2, "bidirectional": True, "dtype": "float64"}),
    "gru_before": (fastrnn.GRU, {"reset_after": False, "bidirectional": True, "dtype": "float64"}),
    "rnn": (fastrnn.RNN, {"bidirectional": True, "dtype": "float32"}),
    "lstm64": (fastrnn.LSTM, {"dtype": "float64"}),
}
two_threads = pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
every_stack = pytest.mark.parametrize("kind", STACKS)
with_lengths = pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """Sets the number of threads, which is put back after the test."""
    monkeypatch.setattr("fastrnn.threads._count", None)
    return fastrnn.set_num_threads


@pytest.fixture
def eager(monkeypatch):
    """Threads are used however little there is to do."""
    monkeypatch.setattr("fastrnn.threads._WORTH_A_THREAD", 1)
    monkeypatch.setattr("fastrnn.passes._STEP_WORK_OF_A_THREAD", 1)


def build(kind, inputs=F, hidden=H, **options):
    layer, defaults = STACKS[kind]
    return layer(inputs, hidden, seed=1, **{**defaults, **options})


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def like(layer, arrays):
    """Arrays, one a part of the state, as the layer takes and returns them."""
    return tuple(arrays) if isinstance(layer, fastrnn.LSTM) else arrays[0]


def problem(layer, steps=T, batch=B, seed=0):
    """Random x, state, dy, dstate."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape).astype(layer.dtype)

    def state():
        shape = layer.num_layers * layer.directions, batch, layer.hidden_size
        return like(layer, [normal(*shape) for _ in range(layer.cell.states)])

    return (
        normal(steps, batch, layer.input_size), state(),
        normal(steps, batch, layer.directions * layer.hidden_size), state(),
    )  # fmt: skip


def train(layer, x, state, dy, dstate, lengths=None, workspace=None):
    """Copies of everything a forward and a backward pass give."""
    workspace = layer.workspace(*x.shape[:2]) if workspace is None else workspace
    layer.zero_grad()
    y, final = layer.forward(x, state, lengths=lengths, workspace=workspace)
    results = {"y": y.copy()} | {f"state{i}": s.copy() for i, s in enumerate(parts(final))}
    dx, initial = layer.backward(dy, dstate, workspace=workspace)
    results |= {"dx": dx.copy()} | {f"dstate{i}": s.copy() for i, s in enumerate(parts(initial))}
    return results | {f"d {name}": gradient for name, gradient in layer.grad_dict().items()}


def assert_same(ours, theirs):
    """Bit for bit; -0 is not 0."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        a, b = np.ascontiguousarray(ours[name]), np.ascontiguousarray(theirs[name])
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        if a.tobytes() != b.tobytes():
            np.testing.assert_array_equal(a, b, err_msg=name)
            raise AssertionError(f"{name} differs in the sign of a zero or a NaN")


# ---- threads ----


@two_threads
@every_stack
@with_lengths
def test_invariance_number_of_threads(kind, lengths, threads, eager):
    layer = build(kind)
    arrays = problem(layer)
    results = []
    for count in (1, 2):
        threads(count)
        workspace = layer.workspace(T, B)
        results.append(train(layer, *arrays, lengths, workspace))
        assert workspace.plan.schedule.bounds.shape[0] == count  # else nothing is compared
    assert_same(*results)


@two_threads
@pytest.mark.parametrize(
    ("kind", "steps", "batch", "inputs", "hidden", "by_units"),
    [("lstm", 20, 24, 65, 130, False), ("lstm", 18, 5, 33, 260, True), ("lstm", 18, 1, 33, 128, True),
     ("gru", 20, 9, 40, 100, False), ("gru", 9, 3, 40, 140, True),
     ("gru_before", 20, 9, 40, 100, False), ("gru_before", 9, 3, 40, 140, True)],
)  # fmt: skip
def test_invariance_number_of_threads_at_sizes_that_use_them(kind, steps, batch, inputs, hidden, by_units, threads):
    layer = build(kind, inputs, hidden, num_layers=1)
    arrays = problem(layer, steps, batch)
    lengths = np.random.default_rng(3).integers(1, steps + 1, batch)
    results = []
    for count in (1, 2):
        threads(count)
        workspace = layer.workspace(steps, batch)
        results.append(train(layer, *arrays, lengths, workspace))
        plan = workspace.plan
        assert (plan.schedule.bounds.shape[0], plan.by_units) == (count, by_units and count > 1)
        y, state = layer.forward(*arrays[:2], lengths=lengths)
        assert_same({"y": y}, {"y": results[-1]["y"]})
        assert_same({"h": parts(state)[0]}, {"h": results[-1]["state0"]})
    assert_same(*results)


@two_threads
def test_invariance_threads_at_their_own_pace(threads, eager):
    """Parts of a ragged batch run on by themselves, and may be in different places: they share no row of any buffer."""
    rng = np.random.default_rng(11)
    for case in range(40):
        kind = [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN][case % 3]
        steps, batch, inputs, hidden = (int(rng.integers(1, bound)) for bound in (60, 30, 80, 140))
        layer = kind(inputs, hidden, bidirectional=bool(case % 2), seed=case)
        arrays = problem(layer, steps, batch, case)
        lengths = rng.integers(1, steps + 1, batch)
        threads(1)
        expected = train(layer, *arrays, lengths)
        threads(2)
        for _ in range(3):
            results = train(layer, *arrays, lengths)
            assert_same(results, expected)
            assert_same({"y": layer.forward(*arrays[:2], lengths=lengths)[0]}, {"y": expected["y"]})


@two_threads
@every_stack
@with_lengths
def test_invariance_split_by_units_or_by_batch(kind, lengths, threads, eager, monkeypatch):
    threads(2)
    layer = build(kind)
    arrays = problem(layer)
    results = []
    for by_units in (False, True):
        monkeypatch.setattr(recurrent, "split_by_units", lambda *sizes, answer=by_units: answer)
        workspace = layer.workspace(T, B)
        results.append(train(layer, *arrays, lengths, workspace))
        assert workspace.plan.by_units == by_units
        y, _ = layer.forward(*arrays[:2], lengths=lengths)
        assert_same({"y": y}, {"y": results[-1]["y"]})
    assert_same(*results)


@two_threads
def test_invariance_threads_changed_between_forward_and_backward(threads, eager):
    layer = build("lstm")
    x, state, dy, dstate = problem(layer)
    expected = train(layer, x, state, dy, dstate, LENGTHS)
    for before, after in ((1, 2), (2, 1)):
        workspace = layer.workspace(T, B)
        layer.zero_grad()
        threads(before)
        layer.forward(x, state, lengths=LENGTHS, workspace=workspace)
        threads(after)
        dx, _ = layer.backward(dy, dstate, workspace=workspace)
        np.testing.assert_array_equal(dx, expected["dx"])
        np.testing.assert_array_equal(layer.grad_dict()["weight_hh_l1"], expected["d weight_hh_l1"])


@two_threads
@with_lengths
def test_invariance_number_of_threads_in_a_model(lengths, threads, eager):
    model = fastrnn.Sequential(
        fastrnn.Embedding(11, 8, seed=0), fastrnn.LSTM(8, 16, seed=1), fastrnn.Dropout(0.3, seed=2),
        fastrnn.Linear(16, 18, seed=3), fastrnn.ReLU(), fastrnn.Tanh(), fastrnn.Sigmoid(), fastrnn.MeanPool(),
    )  # fmt: skip
    x = np.random.default_rng(0).integers(0, 11, (T, B))
    dy = np.random.default_rng(1).standard_normal((B, 18)).astype("f")
    before = model._generators()[1].bit_generator.state
    results = []
    for count in (1, 2):
        threads(count)
        model._generators()[1].bit_generator.state = before  # the same dropout
        model.zero_grad()
        workspace = model.workspace(T, B)
        y, state = model.forward(x, lengths=lengths, workspace=workspace)
        results.append({"y": y.copy(), "h": state[1][0].copy(), "c": state[1][1].copy()})
        dx, dstate = model.backward(dy, workspace=workspace)
        assert dx is None
        results[-1] |= {"dh": dstate[1][0].copy(), "dc": dstate[1][1].copy(), "gradients": model.gradients_to_vector()}
    assert np.abs(results[0]["gradients"]).max() > 0
    assert_same(*results)


# ---- the batch and the padding ----


@every_stack
@with_lengths
def test_invariance_alone_or_in_a_batch(kind, lengths):
    layer = build(kind)
    x, state, dy, dstate = problem(layer)
    whole = train(layer, x, state, dy, dstate, lengths)
    for b in range(B):
        own = slice(b, b + 1)
        n = T if lengths is None else lengths[b]

        def rows(arrays, own=own):
            return like(layer, [a[:, own] for a in parts(arrays)])

        alone = train(layer, x[:n, own], rows(state), dy[:n, own], rows(dstate))
        expected = {
            name: array[:n, own] if name in ("y", "dx") else array[:, own]
            for name, array in whole.items() if not name.startswith("d ")
        }  # fmt: skip
        assert_same({name: alone[name] for name in expected}, expected)
        assert not whole["y"][n:, b].any() and not whole["dx"][n:, b].any()


@every_stack
def test_invariance_order_in_the_batch(kind):
    layer = build(kind)
    x, state, dy, dstate = problem(layer)
    order = np.random.default_rng(4).permutation(B)

    def permuted(arrays):
        return like(layer, [a[:, order] for a in parts(arrays)])

    straight = train(layer, x, state, dy, dstate, LENGTHS)
    mixed = train(layer, x[:, order], permuted(state), dy[:, order], permuted(dstate), LENGTHS[order])
    names = [name for name in straight if not name.startswith("d ")]
    assert_same({name: mixed[name] for name in names}, {name: straight[name][:, order] for name in names})


@every_stack
@pytest.mark.parametrize("lengths", [np.full(B, T), LENGTHS], ids=["full", "ragged"])
def test_invariance_padding(kind, lengths):
    layer = build(kind)
    x, state, dy, dstate = problem(layer)
    tight = train(layer, x, state, dy, dstate, lengths)
    longer = 2 * T + 3
    padded_x, padded_dy = (np.full((longer, *a.shape[1:]), np.nan, a.dtype) for a in (x, dy))
    for b, n in enumerate(lengths):
        padded_x[:n, b], padded_dy[:n, b] = x[:n, b], dy[:n, b]
    padded = train(layer, padded_x, state, padded_dy, dstate, lengths)
    for name in ("y", "dx"):
        assert not padded[name][T:].any()
        padded[name] = padded[name][:T]
    assert_same(padded, tight)  # parameter gradients too
    y, final = layer.forward(padded_x, state, lengths=lengths)
    assert_same({"y": y[:T], "h": parts(final)[0]}, {"y": tight["y"], "h": tight["state0"]})


@every_stack
def test_invariance_full_lengths_are_no_lengths(kind):
    layer = build(kind)
    arrays = problem(layer)
    assert_same(train(layer, *arrays, np.full(B, T)), train(layer, *arrays))


# ---- workspaces and ways of calling ----


@every_stack
@with_lengths
def test_invariance_with_and_without_workspace(kind, lengths):
    layer = build(kind)
    x, state, _, _ = problem(layer)
    for given_state in (None, state):
        y, final = layer.forward(x, given_state, lengths=lengths)
        kept_y, kept_final = layer.forward(x, given_state, lengths=lengths, workspace=layer.workspace(T, B))
        assert_same({"y": y}, {"y": kept_y})
        assert_same(dict(enumerate(parts(final))), dict(enumerate(parts(kept_final))))


@every_stack
def test_invariance_workspace_larger_than_needed(kind):
    layer = build(kind)
    arrays = problem(layer)
    expected = train(layer, *arrays, LENGTHS)
    for steps, batch in ((T + 1, B), (T, B + 1), (3 * T, 5 * B)):
        assert_same(train(layer, *arrays, LENGTHS, layer.workspace(steps, batch)), expected)


@every_stack
def test_invariance_one_workspace_for_many_shapes(kind):
    layer = build(kind)
    workspace = layer.workspace(T, B)
    for steps, batch, ragged in ((T, B, True), (1, 1, False), (T, 2, False), (3, B, True), (T, B, False), (T, B, True)):
        arrays = problem(layer, steps, batch, seed=steps)
        lengths = np.minimum(LENGTHS[:batch], steps) if ragged else None
        assert_same(train(layer, *arrays, lengths, workspace), train(layer, *arrays, lengths))


@pytest.mark.parametrize("kind", STACKS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_invariance_step_is_forward(kind, batch_first):
    layer = build(kind, bidirectional=False, batch_first=batch_first)
    x, state, _, _ = problem(layer)
    for given_state in (None, state):
        y, final = layer.forward(x.swapaxes(0, 1) if batch_first else x, given_state)
        running = given_state
        for t in range(T):
            y_t, running = layer.step(x[t], running)
            assert_same({"y": y_t}, {"y": y[:, t] if batch_first else y[t]})
        assert_same(dict(enumerate(parts(running))), dict(enumerate(parts(final))))


@pytest.mark.parametrize("kind", STACKS)
def test_invariance_step_of_a_single_stream(kind):
    layer = build(kind, bidirectional=False)
    x, state, _, _ = problem(layer)
    y, final = layer.forward(x[:, :1], like(layer, [s[:, :1] for s in parts(state)]))
    running = like(layer, [s[:, 0] for s in parts(state)])
    for t in range(T):
        y_t, running = layer.step(x[t, 0], running)
        assert_same({"y": y_t}, {"y": y[t, 0]})
    assert_same(dict(enumerate(parts(running))), {i: s[:, 0] for i, s in enumerate(parts(final))})


def test_invariance_step_of_a_model_is_forward():
    model = fastrnn.Sequential(
        fastrnn.Embedding(11, 8, seed=0), fastrnn.LSTM(8, 21, 2, seed=1), fastrnn.Dropout(0.5),
        fastrnn.Linear(21, 5, seed=2), fastrnn.Tanh(), fastrnn.ReLU(), fastrnn.Sigmoid(),
    )  # fmt: skip
    x = np.random.default_rng(0).integers(0, 11, (T, B))
    y, final = model.forward(x)
    state, single = None, None
    for t in range(T):
        y_t, state = model.step(x[t], state)
        assert_same({"y": y_t}, {"y": y[t]})
        y_t, single = model.step(x[t, 2], single)
        assert_same({"y": y_t}, {"y": y[t, 2]})
    assert_same({"h": state[1][0], "c": state[1][1]}, {"h": final[1][0], "c": final[1][1]})
    assert_same({"h": single[1][0]}, {"h": final[1][0][:, 2]})


def test_invariance_sequence_in_pieces():
    layer = build("lstm", bidirectional=False)
    x, state, _, _ = problem(layer)
    y, final = layer.forward(x, state)
    workspace = layer.workspace(T, B)
    pieces = []
    for start in range(0, T, 4):
        piece, state = layer.forward(x[start : start + 4], state, workspace=workspace)
        pieces.append(piece.copy())
    assert_same({"y": np.concatenate(pieces)}, {"y": y})
    assert_same(dict(enumerate(state)), dict(enumerate(final)))


def test_invariance_stretches_of_a_long_call(monkeypatch):
    """A kernel that comes back often, to answer Ctrl-C, gives what one that runs through does."""
    layer = build("lstm")
    arrays = problem(layer, 100, 3)
    lengths = np.array([100, 1, 70])
    expected = train(layer, *arrays, lengths)
    monkeypatch.setattr("fastrnn.spans._FIRST_WORK", 1)
    monkeypatch.setattr("fastrnn.spans._SECONDS", 0)
    assert_same(train(layer, *arrays, lengths), expected)
    x = arrays[0]  # the states of one that keeps nothing take turns
    expected = layer.forward(x)[0]
    for work in (1, 3e4, 1e5):
        monkeypatch.setattr("fastrnn.spans._FIRST_WORK", work)
        np.testing.assert_array_equal(layer.forward(x)[0], expected)


@pytest.mark.parametrize("kind", ["lstm64", "gru", "gru_before"])
@given(data=st.data())
@settings(max_examples=25)
def test_invariance_of_random_problems(kind, data):
    size = st.integers(1, 40)
    layer = build(
        kind, data.draw(size), data.draw(size), num_layers=data.draw(st.integers(1, 2)),
        bidirectional=data.draw(st.booleans()), bias=data.draw(st.booleans()),
    )  # fmt: skip
    steps, batch = data.draw(size), data.draw(st.integers(1, 6))
    lengths = np.array(data.draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch)))
    x, state, dy, dstate = problem(layer, steps, batch)
    for b, n in enumerate(lengths):
        x[n:, b] = dy[n:, b] = np.nan
    whole = train(layer, x, state, dy, dstate, lengths)
    b = data.draw(st.integers(0, batch - 1))
    n, own = lengths[b], slice(b, b + 1)
    alone = train(
        layer, x[:n, own], like(layer, [s[:, own] for s in parts(state)]), dy[:n, own],
        like(layer, [s[:, own] for s in parts(dstate)]),
    )  # fmt: skip
    for name in alone:
        if name in ("y", "dx"):
            assert_same({name: whole[name][:n, own]}, {name: alone[name]})
        elif not name.startswith("d "):
            assert_same({name: whole[name][:, own]}, {name: alone[name]})
    assert all(np.isfinite(array).all() for array in whole.values())
