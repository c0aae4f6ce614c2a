"""What the library tells the logger "fastrnn", and that it prints nothing by itself."""

import ast
import io
import logging
import pathlib
import re
import sys

import numpy as np
import pytest

import fastrnn

T, B, F = 5, 4, 3


def batches(count=2, scale=1.0):
    rng = np.random.default_rng(0)
    return [
        (scale * rng.standard_normal((T, B, F), np.float32), rng.standard_normal((T, B, 1), np.float32))
        for _ in range(count)
    ]


def trainer(**options):
    model = fastrnn.Sequential(fastrnn.GRU(F, 4, seed=0), fastrnn.Linear(4, 1, seed=1))
    return fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.Adam(lr=1e-2), **options)


@pytest.fixture
def log(caplog):
    """The messages so far, taken away; records of all levels are kept."""
    caplog.set_level(logging.DEBUG, "fastrnn")

    def taken(level=logging.DEBUG):
        messages = [record.getMessage() for record in caplog.records if record.levelno >= level]
        assert all(record.name.startswith("fastrnn.") for record in caplog.records)
        caplog.clear()
        return messages

    return taken


def test_fit_logs_every_epoch(log):
    job, data = trainer(), batches()
    history = job.fit(data, epochs=2, validation=data[:1], progress=False)
    first, second = log()
    mean = np.mean([record["loss"] for record in history[:2]])
    pattern = (
        rf"epoch 1: 2 updates, \d+\.\d s, mean loss {mean:.6g}, validation loss {history[2]['validation_loss']:.6g}"
    )
    assert re.fullmatch(pattern, first) and second.startswith("epoch 2: 4 updates, ")
    job.fit(data, progress=False)
    (third,) = log()
    assert third.startswith("epoch 3: 6 updates, ") and "validation" not in third


@pytest.mark.parametrize("nonfinite", ["ignore", "skip"])
def test_fit_warns_once_an_epoch_of_gradients_that_are_not_finite(log, nonfinite):
    bad = [(np.full((T, B, F), np.nan, np.float32), targets) for _, targets in batches(3)]
    trainer(nonfinite=nonfinite).fit(bad, epochs=2, progress=False)
    messages = log()
    assert [m.startswith("gradients are not finite at update ") for m in messages] == [True, False, True, False]
    assert messages[1].endswith("gradients not finite 3 times")


def test_fit_logs_what_ends_it(log):
    data = batches()
    stopper = fastrnn.EarlyStopping(1, min_delta=1e9)
    trainer().fit(data, epochs=9, validation=data, callbacks=stopper, progress=False)
    *_, stopped, restored = log()
    assert stopped == "EarlyStopping stopped training after 4 updates"
    assert restored == f"the model has its weights of the lowest validation loss, {stopper.best:.6g}"

    def interrupt(trainer, record):
        raise KeyboardInterrupt

    trainer().fit(data, callbacks=interrupt, progress=False)
    assert log() == ["interrupted after 1 updates"]


def test_lower_learning_rates_are_logged(log):
    data = batches()
    plateau = fastrnn.ReduceOnPlateau(0.5, 0, threshold=0.999)
    trainer().fit(data, epochs=2, validation=data, callbacks=plateau, progress=False)
    assert "learning rate reduced to 0.005" in log()


def test_checkpoints_are_logged(log, tmp_path):
    pytest.importorskip("safetensors")
    job = trainer()
    job.save_checkpoint(tmp_path / "c")
    trainer().load_checkpoint(tmp_path / "c")
    path = tmp_path / "c"
    assert log() == [f"checkpoint after 0 updates saved in {path}", f"going on after 0 updates, from {path}"]


def test_nothing_is_shown_to_those_who_did_not_ask(capsys):
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("fastrnn").handlers)
    trainer(nonfinite="skip").fit([(np.full((T, B, F), np.nan, np.float32), batches()[0][1])])
    assert capsys.readouterr() == ("", "")


def test_log_lines_stand_above_the_bar(monkeypatch):
    pytest.importorskip("tqdm")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    handler = logging.StreamHandler()  # on what is stderr now
    logger = logging.getLogger("fastrnn")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        trainer().fit(batches(), epochs=2)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert re.search(r"4/4 \[", terminal.getvalue())
    found = [part for part in re.split(r"[\r\n]", terminal.getvalue()) if "epoch" in part]
    assert len(found) == 2 and all(part.startswith("epoch ") for part in found)  # on lines of their own


def test_no_print_in_the_library():
    """But in the command line, whose business it is, and where an estimator is `verbose`."""
    printing = []
    for path in pathlib.Path(fastrnn.__file__).parent.rglob("*.py"):
        if "cli" not in path.parts:
            calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
            printing += [path.parts[-2:] for call in calls if getattr(call.func, "id", None) == "print"]
    assert printing == [("estimators", "base.py")]
