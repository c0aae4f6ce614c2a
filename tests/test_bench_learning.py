"""`python -m bench.learning`: the frame by a task of the tests' own, and the data of each task."""

import json
import sys
import types

import numpy as np
import pytest

from bench import child
from bench.learning import __main__ as program
from bench.learning import runs, tasks
from bench.learning.tasks import adding, copying, digits, temporal_order
from bench.learning.training import train

RNG_SEED = 7


# ---- the frame ----


@pytest.fixture
def fake(monkeypatch):
    """A task `fake` that is reached from a value of 2 on and fails for a seed of 9; seeds run in this process."""
    task = types.ModuleType("bench.learning.tasks.fake")

    def run(seed, quick=False):
        if seed == 9:
            raise RuntimeError("seed 9")
        return {"value": seed + (0 if quick else 2)}

    def summarise(results):
        values = [result["value"] for result in results]
        return [("least", str(min(values))), ("all", ", ".join(map(str, values)))], min(values) >= 2

    texts = {"TITLE": "A fake", "SETUP": "Nothing is trained.", "GOAL": "at least 2", "PUBLISHED": "none."}
    vars(task).update(texts, SEEDS=(0, 1), run=run, summarise=summarise)
    monkeypatch.setitem(sys.modules, task.__name__, task)
    monkeypatch.setattr(tasks, "NAMES", ("fake",))
    monkeypatch.setattr(child, "run", lambda function, threads, **arguments: function(**arguments))
    return task


def learn(folder, *arguments):
    program.main([*arguments, "--jobs", "2", "--output-dir", str(folder)])
    return (folder / "LEARNING.md").read_text(encoding="utf-8"), json.loads((folder / "learning.json").read_text())


def test_a_run_is_stored_and_rendered(fake, tmp_path):
    text, stored = learn(tmp_path)
    assert [(run["seed"], run["value"]) for run in stored["fake"]["results"]] == [(0, 2), (1, 3)]
    assert all(run["seconds"] >= 0 for run in stored["fake"]["results"])
    assert "| A fake | at least 2 | least: 2 | yes |" in text
    assert "| all | 2, 3 |" in text and "Seeds 0, 1;" in text and "restricted" not in text


def test_quick_runs_say_so_and_misses_are_told(fake, tmp_path):
    text, _ = learn(tmp_path, "fake", "--quick")
    assert "| least: 0 | **no** (partial run) |" in text and "a quick or restricted run" in text


def test_render_trains_nothing(fake, tmp_path, monkeypatch):
    before, stored = learn(tmp_path)
    monkeypatch.setattr(fake, "run", None)
    assert learn(tmp_path, "--render") == (before, stored)


def test_a_plot_is_drawn_and_shown(fake, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(fake, "draw", lambda results, path: path.write_text(str(len(results))), raising=False)
    text, _ = learn(tmp_path)
    assert (tmp_path / "learning" / "fake.png").read_text() == "2" and "![A fake](learning/fake.png)" in text


def test_a_task_that_fails_keeps_its_stored_results(fake, tmp_path, monkeypatch):
    _, stored = learn(tmp_path)
    monkeypatch.setattr(fake, "SEEDS", (0, 9))
    with pytest.raises(SystemExit, match="fake failed: seed 9"):
        learn(tmp_path)
    assert json.loads((tmp_path / "learning.json").read_text()) == stored


def test_unknown_tasks_are_refused(fake, tmp_path, capsys):
    with pytest.raises(SystemExit):
        learn(tmp_path, "nothing")
    assert "no task nothing; there are fake" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "expected"), [(None, (3, 5)), (1, (3,)), (2, (3, 5)), (4, (3, 5, 6, 7))])
def test_seeds_are_taken_from_the_first_and_counted_on(count, expected):
    assert runs.choose_seeds((3, 5), count) == expected


@pytest.mark.parametrize("name", tasks.NAMES)
def test_every_task_has_what_the_frame_asks_for(name):
    task = tasks.load(name)
    assert all(isinstance(getattr(task, text), str) for text in ("TITLE", "SETUP", "GOAL", "PUBLISHED"))
    assert len(set(task.SEEDS)) == len(task.SEEDS) > 0 and callable(task.run) and callable(task.summarise)


def test_training_ends_when_the_measure_is_low_enough():
    batches, measures = [], iter((3.0, 2.0, 1.0, 0.5))
    trainer = types.SimpleNamespace(step=lambda x: batches.append(x))

    def curve(updates, enough=None):
        return train(trainer, lambda: {"x": len(batches)}, updates, lambda: next(measures), every=2, enough=enough)

    assert curve(9, enough=2.0) == [(2, 3.0), (4, 2.0), (6, 1.0)] and batches == list(range(6))
    assert curve(1) == [(1, 0.5)]


# ---- the data ----


def test_adding_targets_are_the_sums_of_the_marked_numbers():
    data = adding.sequences(np.random.default_rng(RNG_SEED), 500)
    x, targets = data["x"], data["targets"]
    assert x.shape == (100, 500, 2) and targets.shape == (500, 1) and x.dtype == targets.dtype == np.float32
    values, markers = x[..., 0], x[..., 1]
    np.testing.assert_array_equal(markers[:50].sum(axis=0), 1)
    np.testing.assert_array_equal(markers[50:].sum(axis=0), 1)
    np.testing.assert_allclose((values * markers).sum(axis=0), targets[:, 0], rtol=1e-6)
    assert 0 <= values.min() and values.max() < 1
    assert np.var(targets) == pytest.approx(1 / 6, rel=0.15)  # the baseline
    assert len(set(markers[:50].argmax(axis=0))) > 40  # all places occur


@pytest.mark.parametrize("marks", [2, 3])
def test_temporal_order_classes_tell_the_order(marks):
    data = temporal_order.sequences(np.random.default_rng(RNG_SEED), 500, marks)
    x, classes, lengths = data["x"], data["targets"], data["lengths"]
    assert set(lengths) == set(range(50, 56)) and set(classes) == set(range(2**marks))
    for row, length in enumerate(lengths):
        text = "".join("EBabcdXY"[symbol] for symbol in x[:length, row])
        assert text[0] == "E" and text[-1] == "B" and not set("EB") & set(text[1:-1])
        marked = [(step, symbol) for step, symbol in enumerate(text) if symbol in "XY"]
        assert int("".join("01"[symbol == "Y"] for _, symbol in marked), 2) == classes[row]
        for (step, _), (first, last) in zip(marked, temporal_order.PLACES[marks], strict=True):
            assert first <= step <= last


def test_copying_targets_repeat_the_symbols_after_the_delay():
    data = copying.sequences(np.random.default_rng(RNG_SEED), 300)
    symbols, targets = data["x"], data["targets"]
    assert symbols.shape == targets.shape == (120, 300) and symbols.shape[0] == copying.STEPS
    assert set(symbols[:10].ravel()) == set(range(8))
    np.testing.assert_array_equal(symbols[10:109], 8)  # blank
    np.testing.assert_array_equal(symbols[109], 9)  # the sign to begin
    np.testing.assert_array_equal(symbols[110:], 8)
    np.testing.assert_array_equal(targets[:110], 8)
    np.testing.assert_array_equal(targets[110:], symbols[:10])
    assert copying.BASELINE == pytest.approx(0.1733, abs=5e-5)


def test_digits_are_split_in_equal_shares():
    pytest.importorskip("sklearn")
    (x, classes), (test_x, test_classes) = digits.split()
    assert x.shape == (1437, 64, 1) and test_x.shape == (360, 64, 1) and x.dtype == np.float32
    assert x.mean() == pytest.approx(0, abs=1e-5) and x.std() == pytest.approx(1)
    np.testing.assert_allclose(np.bincount(test_classes) / 360, np.bincount(classes) / 1437, atol=0.003)
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    places = {tuple(image): label for image, label in zip(images, labels, strict=True)}
    brightness = 16 / (max(x.max(), test_x.max()) - min(x.min(), test_x.min()))  # pixels are 0 to 16
    for part, part_classes in ((x, classes), (test_x, test_classes)):
        for image, label in zip(np.rint((part[:, :, 0] - x.min()) * brightness), part_classes, strict=True):
            assert places[tuple(image)] == label
