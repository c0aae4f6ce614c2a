"""Every option of layers, containers, losses and rules in models drawn at random: what holds of all of them."""

import copy
import itertools
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import bptt

WIDE = {"dtype": "float64"}
FEATURES, TOKENS, OUTPUTS = 3, 5, 2
KINDS = ("rnn tanh", "rnn relu", "rnn sigmoid", "gru", "gru before", "lstm", "peephole", "layer norm", "jordan")
INPUTS = ("real", "real first linear", "tokens straight", "embedding", "one-hot")
HEADS = ("linear", "activation", "last", "mean", "max", "autoencoder")


def quick(examples):
    return settings(deadline=None, max_examples=examples, derandomize=True)


class Case(NamedTuple):
    """A model and a batch. `noisy`: training draws something; `whole`: it can't go step by step."""

    make: Callable[[], fastrnn.Sequential]
    loss: Any
    x: np.ndarray
    targets: np.ndarray
    arguments: dict[str, Any]
    noisy: bool
    whole: bool

    @property
    def of_forward(self):
        return {name: value for name, value in self.arguments.items() if name != "mask"}

    def moved(self):
        """The model with random parameters, so that learned states are not zeros."""
        model = self.make()
        model.vector_to_parameters(np.random.default_rng(5).uniform(-0.7, 0.7, model.num_parameters))
        return model


@st.composite
def options_of(draw, kind, noise):
    """Constructor arguments of a recurrent layer."""
    options = {
        "num_layers": draw(st.integers(1, 2)),
        "bidirectional": draw(st.sampled_from([False, False, True])),
        "initial_state": draw(st.sampled_from(["zeros", "learned", fastrnn.NoisyState(0.5)])),
    }
    if kind == "rnn relu":
        options["bias"] = True  # without, units that see only zeros stand at the kink
    elif kind != "layer norm":
        options["bias"] = draw(st.booleans())
    if not options["bidirectional"]:
        options["dilation"] = draw(st.sampled_from([1, 1, 2, 3]))
    if not noise:
        options["initial_state"] = draw(st.sampled_from(["zeros", "learned"]))
        return options
    options |= {"dropout": draw(st.sampled_from([0.0, 0.4])), "variational": draw(st.booleans())}
    if kind == "lstm" and draw(st.booleans()):
        options |= {"zoneout": (0.3, 0.1), "recurrent_dropout": 0.3}
    elif kind.startswith("gru") and draw(st.booleans()):
        options |= {"zoneout": 0.3, "recurrent_dropout": 0.3}
    elif kind == "rnn tanh":
        options["zoneout"] = draw(st.sampled_from([0.0, 0.3]))
    return options


def recurrent(kind, features, hidden, options, seed):
    if kind == "jordan":
        output = "tanh" if options["num_layers"] > 1 else None
        return fastrnn.Jordan(
            features, 4, hidden, bias=options["bias"], output_nonlinearity=output, seed=seed, **WIDE
        )
    name, *form = kind.split(" ")
    if name == "rnn":
        options = {**options, "nonlinearity": form[0]}
    if name == "gru":
        options = {**options, "reset_after": not form}
    classes = {"rnn": fastrnn.RNN, "gru": fastrnn.GRU, "lstm": fastrnn.LSTM, "peephole": fastrnn.PeepholeLSTM}
    return classes.get(name, fastrnn.LayerNormLSTM)(features, hidden, seed=seed, **options, **WIDE)


def layers_of(kind, source, wrapping, head, hidden, options, noise, steps, outputs):
    """The layers of a model, and whether training draws anything."""
    width = hidden if kind == "jordan" else hidden * (1 + options["bidirectional"])
    features, layers = FEATURES, []
    if source == "tokens straight":
        features = TOKENS
    elif source == "one-hot":
        layers, features = [fastrnn.OneHot(TOKENS, **WIDE)], TOKENS
    elif source == "embedding":
        layers = [fastrnn.Embedding(TOKENS, FEATURES, seed=1, **WIDE)]
    if wrapping == "residual" or source == "real first linear":
        layers.append(fastrnn.Linear(features, width, seed=2, **WIDE))
        features = width
    core = recurrent(kind, features, hidden, options, 3)
    if noise:
        layers.append(fastrnn.Dropout(0.3, variational=options["variational"], seed=4, **WIDE))
    if wrapping == "residual":
        core = fastrnn.Residual(core)
    elif wrapping == "skips":
        core = fastrnn.Concatenated(core, fastrnn.Tanh(**WIDE), include_input=source != "tokens straight")
        width = 2 * width + (features if core.include_input else 0)
    layers.append(core)
    if wrapping == "penalty":
        layers.append(fastrnn.ActivityRegularization(0.1, 0.05, 0.2, **WIDE))
    pooling = {"last": fastrnn.Last, "mean": fastrnn.MeanPool, "max": fastrnn.MaxPool, "autoencoder": fastrnn.Last}
    if head in pooling:
        layers.append(pooling[head](**WIDE))
    if head == "autoencoder":
        layers += [fastrnn.Repeat(steps, **WIDE), fastrnn.GRU(width, 3, seed=6, **WIDE)]
        width = 3
    layers.append(fastrnn.Linear(width, outputs, seed=7, **WIDE))
    if head == "activation":
        layers.append(fastrnn.Sigmoid(**WIDE))
    return layers


@st.composite
def cases(draw, noise=None, whole=None, kinds=KINDS, wrappings=("plain", "residual", "skips", "penalty")):
    """noise, whole: whether there may be any of it; None for either."""
    noise = draw(st.booleans()) if noise is None else noise
    kind, head = draw(st.sampled_from(kinds)), draw(st.sampled_from(HEADS[:2] if whole is False else HEADS))
    source, wrapping = draw(st.sampled_from(INPUTS)), draw(st.sampled_from(wrappings))
    steps, batch, hidden = draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 17]))
    options = draw(options_of(kind, noise))
    if kind == "jordan":
        options["bidirectional"] = False
    if whole is False and options["bidirectional"]:
        options["bidirectional"], options["dilation"] = False, 1
    if source == "tokens straight" and (
        noise or kind in ("rnn relu", "rnn sigmoid", "jordan") or wrapping == "residual"
    ):
        source = "embedding"  # dropout takes no tokens
    if head == "max" and not source.startswith("real"):
        source = "real"  # equal tokens tie
    if head == "max" and kind in ("rnn relu", "layer norm"):
        head = "mean"  # dead units tie, and single ones, whose norm is constant, nearly
    batch_first = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    real = source.startswith("real")
    x = rng.standard_normal((steps, batch, FEATURES)) if real else rng.integers(0, TOKENS, (steps, batch))
    loss = draw(losses())
    lengths = rng.integers(1, steps + 1, batch) if draw(st.booleans()) else None
    resets = rng.random((steps, batch)) < draw(st.sampled_from([0.3, 1.0])) if draw(st.booleans()) else None

    def make():
        return fastrnn.Sequential(
            *layers_of(kind, source, wrapping, head, hidden, options, noise, steps, OUTPUTS), batch_first=batch_first
        )

    def own(array):
        return np.ascontiguousarray(array.swapaxes(0, 1)) if batch_first and array is not None else array

    model = make()
    keeps = head in ("linear", "activation")
    lead = (batch,) if head in ("last", "mean", "max") else (steps, batch)
    targets = rng.integers(0, OUTPUTS, lead) if isinstance(loss, fastrnn.CrossEntropy) else rng.random((*lead, OUTPUTS))
    mask = draw(st.sampled_from([None, "booleans", "weights"]))
    if mask is not None:
        weights = rng.uniform(0.1, 2, lead) * (rng.random(lead) < 0.8)
        weights.reshape(-1)[0] = 1.0  # something is valid: no sequence ends before its first step
        mask = weights > 0 if mask == "booleans" else weights
    if lengths is not None:  # padding is not read
        past = np.arange(steps)[:, None] >= lengths
        x[past] = np.nan if real else 99
        if keeps:
            targets[past] = -1
    state = random_state(model, x, batch, rng) if draw(st.booleans()) else None
    swap = own if len(lead) > 1 else lambda array: array
    arguments = {"state": state, "lengths": lengths, "resets": own(resets), "mask": swap(mask)}
    return Case(make, loss, own(x), swap(targets), arguments, noise, not keeps or options["bidirectional"])


def losses():
    kinds = (
        lambda **o: fastrnn.CrossEntropy(**o), lambda **o: fastrnn.CrossEntropy(label_smoothing=0.2, **o),
        lambda **o: fastrnn.MSE(**o), lambda **o: fastrnn.Huber(0.4, **o), lambda **o: fastrnn.MAE(**o),
        lambda **o: fastrnn.BinaryCrossEntropy(**o),
    )  # fmt: skip
    reductions = st.sampled_from(["mean", "sum", "sequence"])
    return st.tuples(st.sampled_from(kinds), reductions).map(lambda drawn: drawn[0](reduction=drawn[1]))


def random_state(model, x, batch, rng):
    """A state with random numbers for all layers that have one; x: any input."""
    _, state = model.forward(np.zeros_like(x[:1, :1]))
    return bptt.map_state(lambda array: rng.standard_normal((array.shape[0], batch, array.shape[2])), state)


def leaves(*values):
    """Copies of all arrays in states, and of arrays."""
    found = []
    bptt.map_state(lambda array: found.append(np.array(array)), values)
    return found


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def both_ways(model, workspace, case, again=False):
    """Output, final state and all gradients of a pass with a workspace; the last of two ways back with `again`."""
    workspace.repeatable = again
    y, state = model.forward(case.x, **case.of_forward, workspace=workspace)
    results = leaves(y, state)
    dy = np.random.default_rng(0).standard_normal(y.shape)
    dstate = bptt.map_state(lambda array: np.sin(np.arange(array.size)).reshape(array.shape), state)
    for _ in range(1 + again):
        model.zero_grad()
        dx, d_initial = model.backward(dy, dstate, workspace=workspace)
    return [*results, *leaves(dx, d_initial), model.gradients_to_vector()]


@quick(60)
@given(cases())
def test_options_gradcheck(case):
    report = fastrnn.gradcheck(
        case.moved(), case.loss, case.x, case.targets, **case.arguments, max_elements=5, tolerance=2e-7
    )
    assert report.ok and np.isfinite(report.max_error), str(report)


@quick(60)
@given(cases(noise=False))
def test_options_forward_with_and_without_a_workspace(case):
    model = case.moved()
    steps, batch = model._extent(case.x)
    expected = leaves(*model.forward(case.x, **case.of_forward))
    assert all(np.isfinite(array).all() for array in expected)
    assert_same(leaves(*model.forward(case.x, **case.of_forward, workspace=model.workspace(steps, batch))), expected)
    with tempfile.TemporaryDirectory() as folder:
        fastrnn.save(model, Path(folder) / "model")
        loaded = fastrnn.load(Path(folder) / "model")
    assert repr(loaded) == repr(model)
    assert_same(leaves(*loaded.forward(case.x, **case.of_forward)), expected)


@quick(40)
@given(cases(noise=True))
def test_options_copies_draw_the_same_noise(case):
    model = case.moved()
    steps, batch = model._extent(case.x)
    others = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    expected = both_ways(model, model.workspace(steps, batch), case)
    for other in others:
        assert_same(both_ways(other, other.workspace(steps + 3, batch + 2), case, again=True), expected)


def rows_of(state, rows):
    """The sequences `rows` of a state, or None."""
    return bptt.map_state(lambda array: array[:, rows].copy(), state)


@quick(60)
@given(cases(noise=False))
def test_options_batch_mates_and_padding_do_not_matter(case):
    model = case.moved()
    time, batch = (1, 0) if model.batch_first else (0, 1)
    y, state = model.forward(case.x, **case.of_forward)
    steps = case.x.shape[time]
    for b in range(case.x.shape[batch]):
        lengths, resets = case.arguments["lengths"], case.arguments["resets"]
        length = steps if lengths is None else lengths[b]

        def of_sequence(array, first, stop, b=b):
            return np.take(np.take(array, [b], batch), range(first, stop), time)

        alone, final = model.forward(
            of_sequence(case.x, 0, length), rows_of(case.arguments["state"], [b]),
            resets=None if resets is None else of_sequence(resets, 0, length),
        )  # fmt: skip
        if y.ndim == 2:
            np.testing.assert_array_equal(alone[0], y[b])
        elif model.keeps_steps:
            np.testing.assert_array_equal(alone, of_sequence(y, 0, length))
        else:
            np.testing.assert_array_equal(alone, of_sequence(y, 0, y.shape[time]))
        assert_same(leaves(final), leaves(rows_of(state, [b])))


@quick(40)
@given(cases(whole=False))
def test_options_step_by_step_is_forward(case):
    model = case.moved()
    time = 1 if model.batch_first else 0
    x, resets, state = case.x, case.arguments["resets"], case.arguments["state"]
    if case.arguments["lengths"] is not None:  # a step has no padding
        x = np.nan_to_num(x) if x.dtype.kind == "f" else x % TOKENS
    y, final = model.forward(x, state, resets=resets)
    for t in range(x.shape[time]):
        y_t, state = model.step(
            np.take(x, t, time), state, resets=None if resets is None else np.take(resets, t, time)
        )
        np.testing.assert_array_equal(y_t, np.take(y, t, time))
    assert_same(leaves(state), leaves(final))
    first = np.take(x, 0, time)
    assert_same(leaves(*model.step(first[0])), [array[..., 0, :] for array in leaves(*model.step(first))])


# ---- rules ----


def gradients(model, rule, case):
    model.zero_grad()
    value, state = rule.gradients(model, case.loss, case.x, case.targets, **case.arguments)
    return value, model.gradients_to_vector(), leaves(state)


def assert_close(ours, theirs, tolerance=1e-11):
    for a, b in zip(itertools.chain([ours[0], ours[1]], ours[2]), [theirs[0], theirs[1], *theirs[2]], strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1e-3, np.max(np.abs(b), initial=0)))


@quick(60)
@given(cases())
def test_options_rules_that_reach_everywhere_are_full(case):
    model = case.moved()
    random = bptt.random_states(model)
    expected = gradients(model, bptt.Full(), case)
    after, accepted = bptt.random_states(model), 0
    steps = model._extent(case.x)[0]
    rules = (bptt.Windowed(steps), bptt.Windowed(9, 2), bptt.Checkpointed(), bptt.Checkpointed(2), bptt.Randomized(0.0))
    for rule in (*rules, bptt.Truncated(steps), bptt.Growing(steps, every=1), bptt.Feedback(1.0)):
        bptt.set_random_states(model, random)
        place = model.parameters_to_vector()
        try:
            found = gradients(model, rule, case)
        except ValueError as error:
            assert repr(rule) in str(error) or "fed back" in str(error) or "logits" in str(error), error
            assert not model.gradients_to_vector().any() and bptt.random_states(model) == random
            continue
        accepted += 1
        np.testing.assert_array_equal(model.parameters_to_vector(), place)
        if case.noisy and isinstance(rule, bptt.Checkpointed):
            assert np.isfinite(found[1]).all()
            continue  # other masks
        assert_close(found, expected)
        if not isinstance(rule, bptt.Checkpointed):
            assert bptt.random_states(model) == after
    assert accepted >= 2 or case.whole  # Truncated and Growing take whatever can be cut


def accepts(rule, model):
    try:
        rule.check(model)
    except ValueError:
        return False
    return True


class _Cuts:
    """In place of a generator: cuts where they are told to be."""

    def __init__(self, cuts):
        self.cuts = cuts

    def random(self, size):
        return np.where(self.cuts, 0.0, 1.0)


@quick(40)
@given(cases(noise=False, whole=False, wrappings=("plain", "residual", "skips")), st.sampled_from([0.25, 0.6]))
def test_options_randomized_has_the_full_gradient_on_average(case, p):
    """Exactly so, over all the places there can be cuts at."""
    model = case.moved()
    _, expected, _ = gradients(model, bptt.Full(), case)
    mean, rule = 0.0, bptt.Randomized(p)
    if not accepts(rule, model):
        assert "learned" in repr(model) and "dilation" in repr(model)
        return
    for cuts in itertools.product([False, True], repeat=model._extent(case.x)[0] - 1):
        rule._rng = _Cuts(cuts)
        mean = mean + p ** sum(cuts) * (1 - p) ** (len(cuts) - sum(cuts)) * gradients(model, rule, case)[1]
    np.testing.assert_allclose(mean, expected, rtol=1e-10, atol=1e-12 * max(1, np.abs(expected).max()))


# ---- memory ----


@quick(40)
@given(st.data())
def test_options_a_workspace_serves_for_anything(data):
    """One workspace for batches of all sizes, resets and inputs in turn gives what a new one gives, again and again."""
    case = data.draw(cases())
    model, workspace = case.moved(), None
    workspace = model.workspace(40, 5)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    for steps, batch, reset, ragged, again in data.draw(st.lists(st.tuples(
        st.sampled_from([1, 2, 5, 19, 40]), st.integers(1, 5), st.sampled_from([None, 0.0, 0.2, 1.0]), st.booleans(),
        st.booleans(),
    ), min_size=3, max_size=5)):  # fmt: skip
        lead = (batch, steps) if model.batch_first else (steps, batch)
        real = case.x.ndim > 2
        arguments = {
            "state": random_state(model, case.x, batch, rng) if rng.random() < 0.5 else None,
            "lengths": rng.integers(1, steps + 1, batch) if ragged else None,
            "resets": None if reset is None else rng.random(lead) < reset,
        }
        x = rng.standard_normal((*lead, FEATURES)) if real else rng.integers(0, TOKENS, lead)
        batch_case = case._replace(x=x, arguments=arguments)
        random = bptt.random_states(model)
        found = both_ways(model, workspace, batch_case, again)
        after = bptt.random_states(model)
        bptt.set_random_states(model, random)
        assert_same(found, both_ways(model, model.workspace(steps, batch), batch_case))
        assert bptt.random_states(model) == after


@quick(40)
@given(cases(), st.data())
def test_options_wrong_arguments_are_refused_and_change_nothing(case, data):
    model = case.moved()
    axis = 1 if model.batch_first else 0
    steps, batch = model._extent(case.x)
    workspace = model.workspace(steps, batch)
    both_ways(model, workspace, case)
    random = bptt.random_states(model)
    model.zero_grad()
    lead = (batch, steps) if model.batch_first else (steps, batch)
    good, real = case.of_forward, case.x.dtype.kind == "f"
    state = random_state(model, case.x, batch, np.random.default_rng(0))
    wrong = [
        {"resets": np.zeros((steps + 1, batch + 1), bool)}, {"resets": np.zeros(steps, bool)},
        {"resets": np.zeros(lead)}, {"resets": np.zeros((*lead, 1), bool)}, {"resets": "no"}, {"lengths": [0] * batch},
        {"lengths": [steps + 1] * batch}, {"lengths": [1] * (batch + 1)}, {"lengths": [1.0] * batch},
        {"state": state[:-1]}, {"state": 3}, {"state": bptt.map_state(lambda a: a[:, :, :-1], state)},
        {"state": bptt.map_state(lambda a: np.concatenate([a, a], 1), state)},
        {"state": bptt.map_state(lambda a: a.astype(int), state)},
        {"x": case.x[..., :-1] if real else case.x[:, :, None]}, {"x": case.x[0]},
        {"x": np.zeros((*lead, 1), int) if real else case.x + TOKENS}, {"x": "x"}, {"x": case.x[:0]},
    ]  # fmt: skip
    choice = data.draw(st.sampled_from(wrong))
    arguments = {"x": case.x, **good, **choice}
    for kept in (None, workspace):
        with pytest.raises((TypeError, ValueError)):
            model.forward(**arguments, workspace=kept)
    for rule in (bptt.Full(), bptt.Checkpointed(), bptt.Windowed(2), bptt.Feedback(0.5)):
        with pytest.raises((TypeError, ValueError)):
            rule.gradients(
                model, case.loss, targets=case.targets, **{"x": case.x, **case.arguments, **choice}
            )
    for small in {(steps, max(1, batch - 1)), (max(1, steps - 1), batch)} - {(steps, batch)}:
        with pytest.raises(ValueError, match="workspace"):
            model.forward(case.x, **good, workspace=model.workspace(*small))
    if not case.whole:
        for bad in (np.zeros(batch + 1, bool), np.zeros(batch), np.zeros((batch, 1), bool)):
            with pytest.raises((TypeError, ValueError), match="resets"):
                model.step(np.take(case.x, 0, axis), resets=bad)
    assert bptt.random_states(model) == random and not model.gradients_to_vector().any()


def test_options_what_is_to_be_repeatable_is_so_before_the_forward_pass():
    layer = fastrnn.GRU(FEATURES, 3, seed=0, **WIDE)
    workspace, x = layer.workspace(4, 2), np.ones((4, 2, FEATURES))
    y, _ = layer.forward(x, workspace=workspace)
    workspace.repeatable = True
    layer.backward(y, workspace=workspace)
    with pytest.raises(ValueError, match="only once"):
        layer.backward(y, workspace=workspace)


def test_options_resets_leave_room_for_later_batches():
    """Three sequences of one step, then two of many: what one step of them needs is less than a stretch takes."""
    layer, rng = fastrnn.LSTM(40, 40, seed=0, **WIDE), np.random.default_rng(0)
    workspace, resets = layer.workspace(20, 2), np.ones((2, 2), bool)
    layer.forward(rng.standard_normal((2, 2, 40)), resets=resets, workspace=workspace)
    x, results = rng.standard_normal((20, 2, 40)), []
    for used in (workspace, layer.workspace(20, 2)):
        y, _ = layer.forward(x, workspace=used)
        results.append(layer.backward(y.copy(), workspace=used)[0])
    np.testing.assert_array_equal(*results)


def test_options_windows_reach_learned_states_that_a_part_of_a_state_leaves_out():
    rng, learned = np.random.default_rng(0), {"initial_state": "learned", **WIDE}
    model = fastrnn.Sequential(
        fastrnn.Concatenated(fastrnn.GRU(FEATURES, 3, seed=0, **learned), fastrnn.LSTM(3, 2, seed=1, **learned)),
        fastrnn.GRU(5, OUTPUTS, seed=2, **learned),
    )
    x, targets = rng.standard_normal((5, 3, FEATURES)), rng.standard_normal((5, 3, OUTPUTS))
    state = (rng.standard_normal((1, 3, 3)), None), None
    arguments = {"state": state, "lengths": [5, 1, 3], "resets": rng.random((5, 3)) < 0.2, "mask": None}
    case = Case(None, fastrnn.MSE(), x, targets, arguments, False, False)
    expected = gradients(model, bptt.Full(), case)
    for rule in (bptt.Windowed(5), bptt.Windowed(6, 2), bptt.Checkpointed(2)):
        assert_close(gradients(model, rule, case), expected)


@pytest.mark.parametrize("rule", [bptt.Checkpointed(), bptt.Randomized(0.1)], ids=repr)
def test_options_changes_over_time_need_the_whole(rule):
    for slowness in (0.0, 0.1):
        model = fastrnn.Sequential(
            fastrnn.GRU(FEATURES, OUTPUTS, **WIDE), fastrnn.ActivityRegularization(0.1, slowness=slowness, **WIDE)
        )
        assert accepts(rule, model) == (slowness == 0)
