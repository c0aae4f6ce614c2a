"""Checkpoints whose states of generators, callbacks, rules and batches are damaged: refused, and nothing is changed."""

import contextlib
import tracemalloc

import numpy as np
import pytest

import fastrnn
from fastrnn import bptt, checks, data, storage

pytest.importorskip("safetensors")

X, TARGETS = np.zeros((5, 2, 3), np.float32), np.zeros((5, 2, 2), np.float32)


@contextlib.contextmanager
def little_memory():
    """A block that never has more than a megabyte of Python's and NumPy's memory beyond what there was."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def rewritten(path, change):
    """The checkpoint at `path` with `change(tensors, meta)`."""
    tensors, meta = storage.load_tensors(path, "checkpoint")
    change(tensors, meta)
    storage.save_tensors(path, "checkpoint", tensors, meta)
    return path


# ---- random generators ----

DAMAGES = [  # bit generator, and what is wrong with its state
    ("MT19937", lambda s: s["state"].update(pos=625)),
    ("MT19937", lambda s: s["state"].update(pos=1 << 28)),
    ("MT19937", lambda s: s["state"].update(pos=-1)),
    ("MT19937", lambda s: s["state"].update(pos=1 << 40)),
    ("MT19937", lambda s: s["state"]["key"].pop()),
    ("MT19937", lambda s: s["state"]["key"].append(1)),
    ("MT19937", lambda s: s["state"].update(key=[0] * 624)),
    ("MT19937", lambda s: s["state"].update(key=None)),
    ("Philox", lambda s: s.update(buffer_pos=-(1 << 28))),
    ("Philox", lambda s: s.update(buffer_pos=5)),
    ("Philox", lambda s: s.update(buffer_pos="0")),
    ("Philox", lambda s: s.update(has_uint32=7)),
    ("Philox", lambda s: s["buffer"].pop()),
    ("Philox", lambda s: s["buffer"].append(1)),
    ("Philox", lambda s: s["state"]["key"].append(1)),
    ("Philox", lambda s: s["state"]["counter"].append(1)),
    ("SFC64", lambda s: s["state"]["state"].append(1)),
    ("SFC64", lambda s: s["state"]["state"].pop()),
    ("SFC64", lambda s: s.update(uinteger=1 << 32)),
    ("PCG64", lambda s: s.update(has_uint32=-1)),
    ("PCG64", lambda s: s["state"].update(state=1 << 128)),
    ("PCG64", lambda s: s.pop("uinteger")),
    ("PCG64", lambda s: s.update(more=1)),
    ("PCG64DXSM", lambda s: s["state"].update(inc=-1)),
    ("PCG64DXSM", lambda s: s.update(has_uint32=2)),
]


def generator(name):
    return np.random.Generator(getattr(np.random, name)(5))


def dropping_out(name):
    model = fastrnn.Sequential(fastrnn.Dropout(0.2, seed=generator(name)), fastrnn.Linear(3, 2, seed=1))
    return fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.SGD(0.1))


def cutting_at_random(name):
    rule = bptt.Randomized(0.3, seed=generator(name))
    return fastrnn.Trainer(fastrnn.Linear(3, 2, seed=1), fastrnn.MSE(), fastrnn.SGD(0.1), bptt=rule)


@pytest.mark.parametrize("make", [dropping_out, cutting_at_random])
@pytest.mark.parametrize("number", range(len(DAMAGES)))
def test_damaged_state_of_a_generator(tmp_path, make, number):
    """NumPy takes some of them, and then draws from beyond its arrays, which ends the process."""
    name, damage = DAMAGES[number]
    path, job = tmp_path / "checkpoint", make(name)
    job.step(X, TARGETS)
    job.save_checkpoint(path)
    make(name).load_checkpoint(path)
    rewritten(path, lambda tensors, meta: damage(meta["random"][0] if meta["random"] else meta["rule"]["random"]))
    fresh = make(name)
    before = bptt.random_states(fresh.model), fresh.bptt.state_dict()
    with pytest.raises(fastrnn.FormatError, match="does not fit this trainer") as caught:
        fresh.load_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert repr((bptt.random_states(fresh.model), fresh.bptt.state_dict())) == repr(before)


@pytest.mark.parametrize("changes", [{"has_uint32": 3}, {"state": {}}, {"bit_generator": "Philox"}, {"more": 1}])
def test_damaged_state_of_feedback(changes):
    rule = bptt.Feedback(0.5, seed=3)
    state = rule.state_dict()
    for wrong in ({**state["random"], **changes}, None, []):
        with pytest.raises(ValueError, match="PCG64"):
            rule.load_state_dict({**state, "random": wrong})
    assert rule.state_dict() == state


def test_states_of_generators_of_other_classes(tmp_path):
    """Those that NumPy does not know: what was set must come back."""

    class Mine(np.random.PCG64):
        pass

    def make():
        seed = np.random.Generator(Mine(3))
        model = fastrnn.Sequential(fastrnn.Dropout(0.2, seed=seed), fastrnn.Linear(3, 2, seed=1))
        return fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.SGD(0.1))

    path, job, other = tmp_path / "checkpoint", make(), make()
    job.step(X, TARGETS)
    job.save_checkpoint(path)
    other.load_checkpoint(path)
    assert bptt.random_states(other.model) == bptt.random_states(job.model)
    rewritten(path, lambda tensors, meta: meta["random"][0].update(more=1))
    with pytest.raises(fastrnn.FormatError, match="state of a Mine"):
        make().load_checkpoint(path)


# ---- callbacks ----


class Counter:
    """A callback of somebody's own, with arrays."""

    def __init__(self, start=0):
        self.counts = np.array([start])

    def __call__(self, trainer, record):
        return None

    def state_dict(self):
        return {"counts": self.counts}

    def load_state_dict(self, state):
        self.counts = np.array(state["counts"], int)


def batches():
    rng = np.random.default_rng(0)
    series = rng.standard_normal((60, 3)).astype(np.float32)
    return data.SeriesStream(series, 2, 5, targets=series[:, :2])


def watched(*callbacks):
    """A trainer in the middle of its second epoch."""
    job = trainer()
    stop = [lambda job, record: job.updates == 8]
    job.fit(batches(), epochs=2, validation=batches(), callbacks=[*callbacks, *stop], progress=False)
    return job


def trainer(rule=None):
    return fastrnn.Trainer(fastrnn.GRU(3, 2, seed=1), fastrnn.MSE(), fastrnn.SGD(0.1), bptt=rule)


def test_memory_of_many_callbacks(tmp_path):
    path, job = tmp_path / "checkpoint", trainer()
    job.save_checkpoint(path)

    def change(tensors, meta):
        meta["callbacks"] = [1] * 200_000
        tensors.update({f"callback.x{i}": np.zeros(0, np.uint8) for i in range(2_000)})

    rewritten(path, change)
    tensors, meta = storage.load_tensors(path, "checkpoint")
    with little_memory(), pytest.raises(ValueError, match="at most 1,000 callbacks"):
        fastrnn.checkpoint_state.check_names(tensors, meta)
    with pytest.raises(fastrnn.FormatError, match="at most 1,000 callbacks with a state, got 200,000"):
        job.load_checkpoint(path)
    many = trainer()
    many._callback_states = [("Counter", {})] * 1_001
    with pytest.raises(ValueError, match="at most 1,000 callbacks"):
        many.save_checkpoint(path)


def test_arrays_of_many_callbacks(tmp_path):
    """Each gets its own, by its whole number."""
    path = tmp_path / "checkpoint"
    job, others = watched(*(Counter(i) for i in range(12))), [Counter() for _ in range(12)]
    job.save_checkpoint(path)
    resumed = trainer()
    resumed.load_checkpoint(path)
    resumed.fit(batches(), callbacks=others, progress=False)
    assert [int(counter.counts[0]) for counter in others] == list(range(12))
    for name in ("callback.12.counts", "callback.01.counts", "callback.-1.counts", "callback.1", "callback.x.counts"):
        job.save_checkpoint(path)
        rewritten(path, lambda tensors, meta, name=name: tensors.update({name: np.zeros(1)}))
        with pytest.raises(fastrnn.FormatError, match=f"unknown entry '{name}'"):
            trainer().load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t, c: t.update({"callback.0.weights": t["callback.0.weights"][:3].copy()}), "'EarlyStopping': weights"),
        (lambda t, c: t.update({"callback.0.weights": t["callback.0.weights"].astype(float)}), "numbers of float32"),
        (lambda t, c: c[0]["state"].update(waited="x"), "'EarlyStopping': waited must be an integer"),
        (lambda t, c: c[0]["state"].update(best=None), "'EarlyStopping': best must be a real number"),
        (lambda t, c: c[0]["state"].update(weights=None), "has 'weights' twice"),
        (lambda t, c: c[1]["state"].update(cooling=-1), "'ReduceOnPlateau': cooling must be at least 0"),
        (lambda t, c: c[1].update(state=[]), "its state entries by name"),
        (lambda t, c: c[1].update(more=1), "must have a type and a state"),
        (lambda t, c: c.append(3), "must have a type and a state"),
    ],
)
def test_damaged_states_of_callbacks(tmp_path, change, match):
    path = tmp_path / "checkpoint"
    watched(fastrnn.EarlyStopping(10), fastrnn.ReduceOnPlateau()).save_checkpoint(path)
    trainer().load_checkpoint(path)
    rewritten(path, lambda tensors, meta: change(tensors, meta["callbacks"]))
    job = trainer()
    before = job.model.parameters_to_vector()
    with pytest.raises(fastrnn.FormatError, match=match):
        job.load_checkpoint(path)
    np.testing.assert_array_equal(job.model.parameters_to_vector(), before)


def test_callbacks_take_their_states_all_or_none(tmp_path):
    """One refuses its state, which only it knows: those before it are as they were."""
    path = tmp_path / "checkpoint"
    watched(Counter(3), fastrnn.ReduceOnPlateau()).save_checkpoint(path)
    rewritten(path, lambda tensors, meta: meta["callbacks"][1]["state"].update(more=1))
    job, first, second = trainer(), Counter(7), fastrnn.ReduceOnPlateau()
    job.load_checkpoint(path)
    before = job.model.parameters_to_vector()
    with pytest.raises(ValueError, match="state of ReduceOnPlateau does not fit: state_dict must have"):
        job.fit(batches(), validation=batches(), callbacks=[first, second], progress=False)
    assert first.counts == [7] and second.waited == 0
    np.testing.assert_array_equal(job.model.parameters_to_vector(), before)
    job.fit(batches(), callbacks=[first], progress=False)
    assert first.counts == [3]


# ---- places ----


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda meta: meta["batches"].update(position="x"), "place in the batches does not fit: position must be an"),
        (lambda meta: meta["batches"].update(position=-1), "place in the batches does not fit: position must be at"),
        (lambda meta: meta["batches"].update(position=7), "place in the batches does not fit: position must be at"),
        (lambda meta: meta.update(batches={"a": 1}), "place in the batches does not fit: state must be what"),
        (lambda meta: meta.update(batch=10**6), "from after batch 1000000 of an epoch, these batches are 6"),
    ],
)
def test_damaged_places(tmp_path, change, match):
    """Only `fit` knows the batches: nothing is trained then."""
    path, job, stream = tmp_path / "checkpoint", trainer(), batches()
    assert len(stream) == 6
    watched().save_checkpoint(path)
    job.load_checkpoint(rewritten(path, lambda tensors, meta: change(meta)))
    before, place = job.model.parameters_to_vector(), stream.state_dict()
    for _ in range(2):
        with pytest.raises(ValueError, match=match) as caught:
            job.fit(stream, progress=False)
        assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(job.model.parameters_to_vector(), before)
    assert (job.epoch, stream.state_dict()) == (1, place)
    job.load_checkpoint(rewritten(path, lambda tensors, meta: meta.update(batch=3, batches=None)))
    assert len(job.fit(stream, progress=False)) == 3


def test_a_damaged_place_between_two_epochs(tmp_path, caplog):
    path, job = tmp_path / "checkpoint", trainer()
    job.fit(batches(), progress=False)
    job.save_checkpoint(path)
    job.load_checkpoint(rewritten(path, lambda tensors, meta: meta["batches"].update(position="x")))
    assert len(job.fit(batches(), progress=False)) == 6
    assert "the place in the batches in the checkpoint is not used: position must be an integer" in caplog.text


@pytest.mark.parametrize("place", [3, [], [["position", 1]], "x"])
def test_a_place_of_another_type(tmp_path, place):
    path = tmp_path / "checkpoint"
    watched().save_checkpoint(path)
    rewritten(path, lambda tensors, meta: meta.update(batches=place))
    with pytest.raises(fastrnn.FormatError, match="batches must be a place in them"):
        trainer().load_checkpoint(path)


@pytest.mark.parametrize("changes", [{"batches": 3}, {"batches": 50}, {"least": float("nan")}, {"least": "x"}])
def test_damaged_state_of_a_growing_horizon(tmp_path, changes):
    """Beyond `every` it would never grow again."""
    path = tmp_path / "checkpoint"
    trainer(bptt.Growing(1, 8, every=3)).save_checkpoint(path)
    rewritten(path, lambda tensors, meta: meta["rule"].update(changes))
    with pytest.raises(fastrnn.FormatError, match=f"{min(changes)} must be"):
        trainer(bptt.Growing(1, 8, every=3)).load_checkpoint(path)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"optimizer": 3}, "the optimizer's state must be a dict, got int"),
        ({"state": {"a": 1}}, "its state must hold names of tensors"),
        ({"random": [5]}, "a dict, got int"),
    ],
)
def test_parts_of_another_kind(tmp_path, change, match):
    path = tmp_path / "checkpoint"
    watched().save_checkpoint(path)
    rewritten(path, lambda tensors, meta: meta.update(change))
    with pytest.raises(fastrnn.FormatError, match=match):
        trainer().load_checkpoint(path)


# ---- what is saved and shown ----


@pytest.mark.parametrize("depth", [5_000, 200_000])
def test_deeply_nested_extra_is_refused(tmp_path, depth):
    extra = []
    for _ in range(depth):
        extra = [extra]
    path, job = tmp_path / "file", trainer()
    for save in (lambda: fastrnn.save(job.model, path, extra=extra), lambda: job.save_checkpoint(path, extra=extra)):
        with pytest.raises(ValueError, match="could not be "):
            save()
    assert not path.exists()


@pytest.mark.parametrize("text", ["\N{GRINNING FACE}" * 10**6, b"\xff" * 10**6])
def test_memory_of_messages_about_long_texts(text):
    with little_memory():
        assert checks.shown(text) == type(text).__name__
    assert checks.shown(text[:3]) == repr(text[:3])
