"""NaN and infinity: passed on, or named by their first place."""

import contextlib
import copy
import pickle

import numpy as np
import pytest

import fastrnn
from fastrnn import bptt

T, B, F = 7, 3, 4


def inputs():
    return np.random.default_rng(0).standard_normal((T, B, F), dtype=np.float32)


def model(batch_first=False):
    layers = fastrnn.GRU(F, 5, 2, seed=0), fastrnn.LSTM(5, F, seed=1)
    return fastrnn.Sequential(*layers, batch_first=batch_first)


def place(call):
    with pytest.raises(fastrnn.NonFiniteError) as caught:
        call()
    error = caught.value
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(error, ValueError) and str(copy) == str(error) and copy.layer == error.layer
    return str(error)


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_first_step_of_an_input_is_named(batch_first):
    x, net = inputs(), model(batch_first)
    x[3, 2, 1], x[5, 0, 0] = np.nan, np.inf
    ours = x.swapaxes(0, 1) if batch_first else x
    assert place(lambda: net(ours, nonfinite="raise")) == "x is nan at time 3, batch 2, feature 1"
    lengths = [7, 7, 3]
    assert place(lambda: net(ours, lengths=lengths, nonfinite="raise")) == "x is inf at time 5, batch 0, feature 0"
    y, _ = net(ours, lengths=[5, 7, 3], nonfinite="raise")  # only padding is left
    np.testing.assert_array_equal(y, net(ours, lengths=[5, 7, 3])[0])


def test_parameters_and_states_are_named():
    net, x = model(), inputs()
    state = (np.zeros((2, B, 5), np.float32), None)
    state[0][1, 2, 3] = -np.inf
    assert place(lambda: net(x, state, nonfinite="raise")) == "state[0] is -inf at [1, 2, 3]"
    assert place(lambda: net.step(x[0], state, nonfinite="raise")) == "state[0] is -inf at [1, 2, 3]"
    net(x, nonfinite="raise")
    weights = net.state_dict()
    weights["0.weight_hh_l1"][4, 2] = np.inf
    net.load_state_dict(weights)
    for call in (lambda: net(x, nonfinite="raise"), lambda: net.step(x[0], nonfinite="raise")):
        assert place(call) == "weight_hh_l1 of layer 0 (GRU) is inf at [4, 2]"
    assert np.isnan(net(x)[0]).any()


def growing():
    """A stack whose second layer overflows, which the LSTM after it would make finite again."""
    net = fastrnn.Sequential(fastrnn.RNN(1, 1, 2, nonlinearity="relu"), fastrnn.LSTM(1, 1))
    ones = {name: np.ones_like(array) for name, array in net.state_dict().items()}
    net.load_state_dict(ones | {"0.weight_hh_l1": np.full((1, 1), 1e13, np.float32)})
    return net


def test_an_overflow_inside_is_named_by_its_layer_and_step():
    net, x = growing(), np.ones((9, 2, 1), np.float32)
    workspace = net.workspace(9, 2)
    expected = "h_l1 of layer 0 (RNN) becomes inf at time 3, batch 0, feature 0"
    assert np.isfinite(net(x)[0]).all()
    assert place(lambda: net(x, nonfinite="raise")) == expected
    assert place(lambda: net(x, workspace=workspace, nonfinite="raise")) == expected
    with pytest.raises(ValueError, match="recorded in workspace"):
        net.backward(np.ones((9, 2, 1), np.float32), workspace=workspace)
    state = None
    for t in range(3):
        _, state = net.step(x[t], state, nonfinite="raise")
    assert "h_l1 of layer 0 (RNN) becomes inf" in place(lambda: net.step(x[3], state, nonfinite="raise"))


def test_the_reverse_direction_begins_at_the_end():
    net = fastrnn.RNN(1, 1, bidirectional=True, nonlinearity="relu")
    weights = {name: np.zeros_like(array) for name, array in net.state_dict().items()}
    grown = {"weight_ih_l0_reverse": np.ones((1, 1)), "weight_hh_l0_reverse": np.full((1, 1), 1e20)}
    net.load_state_dict(weights | grown)
    found = place(lambda: net(np.ones((9, 1, 1), np.float32), nonfinite="raise"))
    assert found == "h_l0_reverse of the RNN becomes inf at time 6, batch 0, feature 0"


def test_a_single_step_names_the_first_layer_of_a_stack():
    net, x = fastrnn.RNN(1, 1, 2, nonlinearity="relu"), np.ones((2, 3, 1), np.float32)
    net.load_state_dict({name: np.full_like(array, 1e30) for name, array in net.state_dict().items()})
    assert place(lambda: net(x[1:] * 1e9, nonfinite="raise")).startswith("h_l0 of the RNN becomes inf")
    for x_t, batch in ((x[1] * 1e9, 0), (x[1, 0] * 1e9, 0), (x[1] * np.float32([[0], [1e9], [1e9]]), 1)):
        found = place(lambda x_t=x_t: net.step(x_t, nonfinite="raise"))
        assert found == f"h_l0 of the RNN becomes inf at batch {batch}, feature 0"


def test_losses_name_the_row():
    y, targets, loss = inputs(), inputs(), fastrnn.MSE()
    targets[2, 1, 0] = np.nan
    assert place(lambda: loss(y, targets, nonfinite="raise")) == "targets is nan at [2, 1]"
    mask = np.ones((T, B), bool)
    mask[2, 1] = False
    assert loss(y, targets, mask=mask, nonfinite="raise")[0] == loss(y, targets, mask=mask)[0]
    y[1, 1, 1] = -np.inf
    classes = np.zeros((T, B), np.int64)
    assert np.isfinite(fastrnn.CrossEntropy()(y, classes, nonfinite="raise")[0])  # a class that can't be
    assert place(lambda: fastrnn.CrossEntropy()(y, classes + 1, nonfinite="raise")) == "y is -inf at [1, 1]"


def test_a_loss_that_raises_has_written_nothing():
    y, targets, loss = inputs(), inputs(), fastrnn.MSE()
    out = y.copy()
    value, dy = loss(out, targets + 1, out=out, nonfinite="raise")
    expected, gradient = loss(y, targets + 1)
    assert dy is out and value == expected
    np.testing.assert_array_equal(out, gradient)
    targets[2, 1, 0] = np.nan
    out[...] = y
    assert place(lambda: loss(out, targets, out=out, nonfinite="raise")) == "targets is nan at [2, 1]"
    np.testing.assert_array_equal(out, y)
    for wrong in (out[:-1], out.astype(np.float64), np.asfortranarray(out), out.tolist()):
        with pytest.raises((TypeError, ValueError), match="out"):
            loss(y, y, out=wrong, nonfinite="raise")


def test_a_wrong_policy_is_refused():
    net, x = model(), inputs()
    for call in (net, lambda *a, **k: net.step(x[0], **k), lambda *a, **k: fastrnn.MSE()(x, x, **k)):
        with pytest.raises(ValueError, match="nonfinite must be one of"):
            call(x, nonfinite="stop")


@pytest.mark.parametrize("rule", [bptt.Full(), bptt.Truncated(3), bptt.Windowed(3), bptt.Checkpointed(3)], ids=repr)
def test_training_names_the_place_in_the_whole_batch(rule):
    trainer = fastrnn.Trainer(model(), fastrnn.MSE(), fastrnn.SGD(0.1), bptt=rule, nonfinite="raise")
    x, targets = inputs(), inputs()
    x[4, 2, 1] = targets[5, 1, 0] = np.nan
    updates = 1 if isinstance(rule, bptt.Truncated) else 0
    expected = f"x is nan at time 4, batch 2, feature 1 (after {updates} updates)"
    assert place(lambda: trainer.step(x, inputs())) == expected
    trainer.updates = 0
    assert "targets is nan at time 5, batch 1" in place(lambda: trainer.step(inputs(), targets))
    assert trainer.nonfinite == 2 and np.isfinite(trainer.model.parameters_to_vector()).all()


LOOKING = [
    bptt.Full(), bptt.Truncated(2), bptt.Online(), bptt.Growing(2, every=9), bptt.Randomized(0.3), bptt.Windowed(3),
    bptt.Windowed(4, 2), bptt.Checkpointed(), bptt.Checkpointed(3), bptt.Checkpointed(9), bptt.Feedback(0.5),
]  # fmt: skip


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("rule", LOOKING, ids=repr)
def test_of_several_bad_targets_the_first_in_time_is_named(rule, batch_first):
    """At random places, of which padding and what is masked are none."""
    layers = fastrnn.GRU(F, 3, seed=0), fastrnn.Dropout(0.2, seed=1), fastrnn.Linear(3, F, seed=2)
    net = fastrnn.Sequential(*layers, batch_first=batch_first)
    trainer = fastrnn.Trainer(net, fastrnn.MSE(), fastrnn.SGD(1e-3), bptt=rule, nonfinite="raise")
    rng, x = np.random.default_rng(0), inputs()

    def ours(array):
        return array.swapaxes(0, 1) if batch_first else array

    for _ in range(12):
        targets, mask, lengths = inputs(), rng.random((T, B)) < 0.8, rng.integers(1, T + 1, B)
        mask[0, 0] = True
        for _ in range(int(rng.integers(1, 5))):
            targets[rng.integers(T), rng.integers(B), rng.integers(F)] = rng.choice([np.nan, np.inf, -np.inf])
        valid = mask & (np.arange(T)[:, np.newaxis] < lengths)
        wrong = np.argwhere(valid & ~np.isfinite(targets).all(-1))
        random = repr(bptt.random_states(net))

        def step(targets=targets, mask=mask, lengths=lengths):
            trainer.step(ours(x), ours(targets), mask=ours(mask), lengths=lengths)

        if not len(wrong):
            step()
            continue
        with pytest.raises(fastrnn.NonFiniteError, match="targets is") as caught:
            step()
        assert (caught.value.time, caught.value.batch) == tuple(wrong[0])
        assert trainer.updates or random == repr(bptt.random_states(net))


RULES = [bptt.Full(), bptt.Truncated(3), bptt.Windowed(3), bptt.Windowed(4, 2), bptt.Checkpointed(3)]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_rules_name_the_earliest_step_and_what_goes_into_the_whole_model(rule):
    """Also the rule that takes the layers through the sequence one after the other."""
    layers = fastrnn.Linear(1, 1, bias=False), *(fastrnn.RNN(1, 1, nonlinearity="relu", bias=False) for _ in range(2))
    net = fastrnn.Sequential(*layers)
    values = {"0.weight": 1, "1.weight_ih_l0": 1, "1.weight_hh_l0": 1e10, "2.weight_ih_l0": 1e20, "2.weight_hh_l0": 0}
    net.load_state_dict({name: np.full((1, 1), value, np.float32) for name, value in values.items()})
    trainer = fastrnn.Trainer(net, fastrnn.MSE(), fastrnn.SGD(0.1), bptt=rule, nonfinite="raise")
    x = np.ones((9, 2, 1), np.float32)
    found = place(lambda: trainer.step(x, x))  # layer 1 becomes infinite at time 4
    assert found == "h_l0 of layer 2 (RNN) becomes inf at time 2, batch 0, feature 0 (after 0 updates)"
    state = None, None, np.full((1, 2, 1), np.nan, np.float32)
    assert "state[2] is nan at [0, 0, 0]" in place(lambda: trainer.step(x, x, state))
    net.vector_to_parameters(np.full(5, np.inf, np.float32))
    assert "weight of layer 0 (Linear) is inf" in place(lambda: trainer.step(x, x, state))


@pytest.mark.parametrize(
    "scale, end", [(1e200, ""), (1e308, ": the gradient of weight of the Linear is inf at [0, 0]")]
)
def test_the_norm_of_gradients_may_be_infinite_though_they_are_not(scale, end):
    net = fastrnn.Linear(1, 1, bias=False, dtype="float64", seed=0)
    net.load_state_dict({"weight": np.ones((1, 1))})
    x = np.full((2, 1, 1), scale)
    trainer = fastrnn.Trainer(net, fastrnn.MAE(reduction="sum"), fastrnn.SGD(0.1), nonfinite="raise")
    x[1] *= 1.5
    assert place(lambda: trainer.step(x, x / 2)) == f"the norm of the gradients is inf{end} (after 0 updates)"
    assert net.parameters_to_vector() == 1


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_an_update_that_goes_wrong_is_undone(policy):
    """The gradient is finite, its square, Adam's second moment, is not."""
    net = fastrnn.Linear(1, 1, seed=0)
    trainer = fastrnn.Trainer(net, fastrnn.MAE(), fastrnn.Adam(1e-3), nonfinite=policy)
    x = np.ones((1, 1, 1), np.float32)
    for update in range(2):
        before, state = net.parameters_to_vector(), trainer.optimizer.state_dict()
        if policy == "raise":
            assert "exp_avg_sq of weight of the Linear is inf" in place(lambda: trainer.step(x * 1e25, x))
        else:
            trainer.step(x * 1e25, x)
        np.testing.assert_array_equal(net.parameters_to_vector(), before)
        after = trainer.optimizer.state_dict()
        assert after.keys() == state.keys() and trainer.updates == update and trainer.nonfinite == update + 1
        assert all(np.array_equal(after[name], state[name]) for name in state)
        trainer.step(x, x)


class Momentum:
    """An optimizer of somebody's own, whose state dict is its state."""

    lr = 0.1
    breaks = False

    def __init__(self):
        self.state = {"velocity": np.zeros(2, np.float32)}

    @np.errstate(over="ignore")
    def step(self, model, factor=1.0):
        self.state["velocity"] += model.gradients_to_vector()
        direction = np.clip(self.state["velocity"], -1, 1)
        model.vector_to_parameters(model.parameters_to_vector() - self.lr * factor * direction)
        if self.breaks:
            raise RuntimeError("broken")

    def config(self):
        return {"lr": self.lr}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = dict(state)


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_updates_of_other_optimizers_are_undone(policy):
    net, optimizer = fastrnn.Linear(1, 1, seed=0), Momentum()
    trainer = fastrnn.Trainer(net, fastrnn.MAE(), optimizer, nonfinite=policy)
    x = np.ones((1, 1, 1), np.float32)
    trainer.step(x, x)
    before = net.parameters_to_vector()

    def check(what, x, targets, velocity):
        optimizer.state["velocity"][:] = velocity
        if policy == "raise":
            assert f"an update goes wrong: {what} of the Linear is" in place(lambda: trainer.step(x, targets))
        else:
            trainer.step(x, targets)
        np.testing.assert_array_equal(net.parameters_to_vector(), before)
        np.testing.assert_array_equal(optimizer.state["velocity"], velocity)
        assert trainer.updates == 1

    optimizer.lr = 1e39
    for _ in range(2):
        check("weight", x * -1e6, x, np.float32(0))
    optimizer.lr = 0.1
    check("velocity of weight", x * 1e38, x * -1e38, np.float32(3e38))
    optimizer.breaks = True
    with pytest.raises(RuntimeError, match="broken"):
        trainer.step(x, 2 * x)
    np.testing.assert_array_equal(net.parameters_to_vector(), before)
    np.testing.assert_array_equal(optimizer.state["velocity"], np.float32(3e38))


def test_an_optimizer_that_can_not_be_undone_is_refused():
    class Plain:
        lr = 0.1

        def step(self, model, factor=1.0):
            pass

    net = fastrnn.Linear(1, 1, seed=0)
    fastrnn.Trainer(net, fastrnn.MSE(), Plain()).step(*np.ones((2, 1, 1, 1), np.float32))
    for policy in ("raise", "skip"):
        with pytest.raises(TypeError, match="optimizer must have state_dict, to undo an update, got Plain"):
            fastrnn.Trainer(net, fastrnn.MSE(), Plain(), nonfinite=policy)
        trainer = fastrnn.Trainer(net, fastrnn.MSE(), fastrnn.SGD(0.1), nonfinite=policy)
        with pytest.raises(TypeError, match="optimizer must have state_dict, to undo an update, got Plain"):
            trainer.optimizer = Plain()


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_an_optimizer_that_is_set_is_used_and_undone(policy):
    net, x = fastrnn.Linear(1, 1, seed=0), np.ones((1, 1, 1), np.float32)
    first, second = fastrnn.SGD(0.1), fastrnn.Adam(0.0)
    trainer = fastrnn.Trainer(net, fastrnn.MAE(), first, nonfinite=policy)
    trainer.step(x, 3 * x)
    old, before = first.state_dict(), net.parameters_to_vector()
    trainer.optimizer = second
    trainer.step(x, 3 * x)
    np.testing.assert_array_equal(net.parameters_to_vector(), before)  # a learning rate of 0
    assert first.state_dict() == old and second.state_dict()["step"] == 1
    second.lr, kept = 0.1, second.state_dict()
    if policy == "raise":
        assert "exp_avg_sq of weight" in place(lambda: trainer.step(x * 1e25, x))
    else:
        trainer.step(x * 1e25, x)
    assert all(np.array_equal(second.state_dict()[name], kept[name]) for name in kept if name != "lr")
    trainer.optimizer = Momentum()
    trainer.step(x, 3 * x)
    assert trainer.optimizer.state["velocity"].any() and trainer.updates == 3
    for wrong in (fastrnn.SGD, None):
        with pytest.raises(TypeError, match="optimizer must be an optimizer of fastrnn"):
            trainer.optimizer = wrong
    assert isinstance(trainer.optimizer, Momentum)


@pytest.mark.parametrize("rule", [bptt.Truncated(3), bptt.Randomized(0.5), bptt.Feedback(0.5)], ids=repr)
def test_an_undone_update_has_drawn_nothing(rule):
    """Neither dropout masks nor what the rule draws."""
    net = fastrnn.Sequential(fastrnn.GRU(F, F, seed=0), fastrnn.Dropout(0.5, seed=1))
    trainer = fastrnn.Trainer(net, fastrnn.MSE(), fastrnn.SGD(0.1), bptt=rule, nonfinite="raise")

    def drawn():
        return repr((bptt.random_states(net), rule.state_dict()))

    x, before = inputs(), drawn()
    for targets in (np.full_like(x, np.nan), np.full_like(x, 3e38)):  # a loss, and an update, that goes wrong
        place(lambda targets=targets: trainer.step(x, targets))
        assert drawn() == before
    trainer.step(x, x)
    assert drawn() != before


def test_a_chunk_that_goes_wrong_leaves_the_draws_of_those_before():
    nets = [fastrnn.Sequential(fastrnn.GRU(F, F, seed=0), fastrnn.Dropout(0.5, seed=1)) for _ in range(2)]
    options = {"bptt": bptt.Truncated(3), "nonfinite": "raise"}
    ours, other = (fastrnn.Trainer(net, fastrnn.MSE(), fastrnn.SGD(0.1), **options) for net in nets)
    x, targets = inputs(), inputs()
    targets[4] = np.nan
    place(lambda: ours.step(x, targets))
    other.step(x[:3], x[:3])
    assert bptt.random_states(nets[0]) == bptt.random_states(nets[1]) and ours.updates == other.updates == 1
    np.testing.assert_array_equal(*(net.parameters_to_vector() for net in nets))


@pytest.mark.parametrize("policy", ["ignore", "skip", "raise"])
@pytest.mark.parametrize("rule", [*LOOKING, bptt.Feedback(0.0)], ids=repr)
def test_what_explodes_is_no_warning(rule, policy):
    """Gradients of both signs overflow on their way back, in one element more often than once."""
    x, found = np.ones((9, 4, 2), np.float32), 0
    for growth, scale, number in ((1e3, 1e15, 1.0), (1.0, 1e38, 1e-30), (1.0, 1e38, np.inf)):
        recurrent = fastrnn.RNN(2, 2, nonlinearity="relu", seed=1)
        net = fastrnn.Sequential(fastrnn.Linear(2, 2, seed=0), recurrent, fastrnn.Linear(2, 2, seed=2))
        weights = net.state_dict()
        weights["1.weight_hh_l0"][...] = [[growth, -growth], [growth, growth]]
        weights["2.weight"][...] = [[scale, -scale], [scale, scale]]
        net.load_state_dict(weights)
        state = None, np.ones((1, 4, 2)), None
        options = {"bptt": copy.deepcopy(rule), "nonfinite": policy}
        trainer = fastrnn.Trainer(net, fastrnn.MSE(reduction="sum"), fastrnn.SGD(0.1, momentum=0.9), **options)
        targets = x * number * np.float32([1, -1])
        for _ in range(2):
            try:
                trainer.step(x * np.float32(number if number < 1 else 1), targets, state, lengths=[9, 5, 9, 1])
            except fastrnn.NonFiniteError:
                assert policy == "raise"
        found += trainer.nonfinite
    assert found


@pytest.mark.parametrize("policy", ["ignore", "skip", "raise"])
@pytest.mark.parametrize("weight, target", [(1, -1.5e38), (-1, -np.inf)])
def test_gradients_of_outputs_fed_back_may_overflow(policy, weight, target):
    net = fastrnn.Linear(1, 1, bias=False, seed=0)
    net.load_state_dict({"weight": np.full((1, 1), weight, np.float32)})
    rule, loss = bptt.Feedback(0.0), fastrnn.MSE(reduction="sum")
    trainer = fastrnn.Trainer(net, loss, fastrnn.SGD(0.1), bptt=rule, nonfinite=policy)
    x = np.ones((5, 3, 1), np.float32)
    with pytest.raises(fastrnn.NonFiniteError) if policy == "raise" else contextlib.nullcontext():
        trainer.step(x, x * np.float32(target), lengths=[5, 2, 4])
    assert trainer.nonfinite == 1


def test_a_state_beyond_the_dtype_is_named():
    state = np.full((1, B, 5), 1e300)
    assert place(lambda: fastrnn.GRU(F, 5, seed=0)(inputs(), state, nonfinite="raise")) == "state is inf at [0, 0, 0]"


def test_a_loss_of_somebody_s_own_may_give_float32():
    class Own(fastrnn.MSE):
        def evaluate(self, *args, **kwargs):
            total, *others = super().evaluate(*args, **kwargs)
            return np.float32(total), *others

    net = fastrnn.Linear(1, 1, bias=False, seed=0)
    trainer = fastrnn.Trainer(net, Own(), fastrnn.SGD(0.0), bptt=bptt.Online(), nonfinite="raise")
    x = np.ones((4, 1, 1), np.float32)
    value, _ = trainer.step(x, x * 1.7e19)
    assert np.isfinite(value) and 4 * value > float(np.finfo(np.float32).max)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda trainer: pickle.loads(pickle.dumps(trainer))])
@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_copies_go_on_to_the_same_bits(policy, clone):
    net = fastrnn.Sequential(fastrnn.GRU(F, F, seed=0), fastrnn.Dropout(0.5, seed=1))
    trainer = fastrnn.Trainer(net, fastrnn.MSE(), fastrnn.Adam(1e-2), bptt=bptt.Randomized(0.3), nonfinite=policy)
    bad = np.full((T, B, F), np.nan, np.float32)

    def go(trainer, steps):
        for _ in range(steps):
            trainer.step(inputs(), inputs())
            with pytest.raises(fastrnn.NonFiniteError) if policy == "raise" else contextlib.nullcontext():
                trainer.step(inputs(), bad)

    go(trainer, 2)
    copied = clone(trainer)
    assert copied.optimizer is not trainer.optimizer and copied.model is not net
    for one in (trainer, copied):
        go(one, 3)
    np.testing.assert_array_equal(net.parameters_to_vector(), copied.model.parameters_to_vector())
    assert trainer.updates == copied.updates == 5 and trainer.nonfinite == copied.nonfinite == 5


def test_a_state_that_step_returned_outlives_an_error():
    trainer = fastrnn.Trainer(model(), fastrnn.MSE(), fastrnn.SGD(0.1), nonfinite="raise")
    _, state = trainer.step(inputs(), inputs())
    before = state[0].copy()
    place(lambda: trainer.step(inputs(), np.full((T, B, F), np.nan, np.float32), state))
    np.testing.assert_array_equal(state[0], before)


def test_no_checkpoint_of_parameters_that_are_not_finite(tmp_path):
    trainer = fastrnn.Trainer(model(), fastrnn.MSE(), fastrnn.SGD(0.1), nonfinite="raise")
    trainer.model.vector_to_parameters(np.full(trainer.model.num_parameters, np.nan, np.float32))
    place(lambda: trainer.save_checkpoint(tmp_path / "checkpoint"))
    assert not list(tmp_path.iterdir())


def test_early_stopping_keeps_no_weights_that_are_not_finite():
    net = fastrnn.Linear(1, 1, seed=0)
    trainer = fastrnn.Trainer(net, fastrnn.MSE(), fastrnn.SGD(0.1))
    stopping, good = fastrnn.EarlyStopping(9), net.parameters_to_vector()
    stopping(trainer, {"validation_loss": 1.0})
    stopping(trainer, {"validation_loss": -np.inf})
    net.vector_to_parameters(np.full(2, np.nan, np.float32))
    stopping(trainer, {"validation_loss": 0.5})
    stopping.finish(trainer)
    np.testing.assert_array_equal(net.parameters_to_vector(), good)
    assert stopping.best == 1.0 and stopping.waited == 2


@pytest.mark.parametrize("number", [0.1, 1.1])
def test_sums_over_equal_rows_are_accurate(number):
    """All roundings of such a sum may go the same way."""
    rows = 100_000
    dy = np.full((rows, 1, 1), number, np.float32)
    exact = rows * float(dy[0, 0, 0])
    embedding, linear, repeat = fastrnn.Embedding(2, 1), fastrnn.Linear(1, 1), fastrnn.Repeat(rows)
    one_hot = fastrnn.RNN(2, 1, bias=False, nonlinearity="relu")
    one_hot.load_state_dict({name: np.eye(*array.shape) for name, array in one_hot.state_dict().items()})
    tokens = np.zeros((rows, 1), np.int64)
    sums = [fastrnn.MeanPool()(dy)[0] * rows]
    cases = [
        (embedding, tokens), (one_hot, tokens.reshape(1, rows)), (repeat, dy[:1, 0]),
        (linear, dy), (linear, dy.reshape(1, rows, 1)),
    ]  # fmt: skip
    for layer, x in cases:
        workspace = layer.workspace(len(x), x.shape[1])
        y, _ = layer(x, workspace=workspace)
        layer.zero_grad()
        dx, _ = layer.backward(dy.reshape(y.shape), workspace=workspace)
        weight, *bias = layer.grad_dict().values() if layer is not repeat else [dx]
        sums += [weight / dy[0, 0, 0], *bias] if layer is linear else [weight]
    np.testing.assert_allclose([float(s.reshape(-1)[0]) for s in sums], exact, rtol=1e-5)
