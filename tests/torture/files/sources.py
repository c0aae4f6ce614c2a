"""The good files that are damaged, and how each kind is read."""

import contextlib
import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import fastrnn
from fastrnn import bptt, corpus, data, storage, words
from fastrnn.bptt import map_state
from fastrnn.cli import classify
from fastrnn.cli.common import CommandError, load_model
from fastrnn.cli.training_run import Run, Settings, read_saved
from fastrnn.interop import torch as interop_torch

from . import safetensors_bytes

_TOKENS = np.arange(400) * 7 % 11
_TEXT = b"The quick brown fox jumps over the lazy dog. It was not amused! Who is?\n\n" * 8


class Reader(NamedTuple):
    """How a kind of file is read: `read(path)` gives all its tensors by name, the same as in the file."""

    read: object
    refusals: tuple[type[Exception], ...] = (storage.FormatError,)
    go_on: Callable[[], None] | None = None  # with what was read last, if it was not refused
    survived: tuple[str, ...] = ()  # mutations after which other files can't be loaded, and these perhaps
    renamed: bool = False  # whether modules get other names, and numbers perhaps a wider dtype


# ---- models ----


def _stacked():
    return fastrnn.Sequential(
        fastrnn.Embedding(11, 5, seed=1),
        fastrnn.LSTM(5, 7, num_layers=2, bidirectional=True, dropout=0.25, seed=2),
        fastrnn.Linear(14, 11, seed=3),
    )


def _nested():
    return fastrnn.Sequential(
        fastrnn.Residual(fastrnn.GRU(6, 6, dtype="float64", zoneout=0.1, seed=1)),
        fastrnn.Concatenated(
            fastrnn.RNN(6, 5, nonlinearity="relu", initial_state="learned", dtype="float64", seed=2),
            fastrnn.Jordan(5, 4, 3, dtype="float64", seed=3),
            fastrnn.PeepholeLSTM(3, 2, bias=False, dtype="float64", seed=4),
        ),
        fastrnn.Last(dtype="float64"),
        fastrnn.Repeat(3, dtype="float64"),
        fastrnn.LayerNormLSTM(10, 4, dtype="float64", seed=5),
        fastrnn.ActivityRegularization(0.1, dtype="float64"),
        batch_first=True,
    )


def large_models():
    """(kind, model) of some ten megabytes, of each form that a model has."""
    yield "layer", fastrnn.Linear(1500, 1500, seed=1)
    yield "stack", fastrnn.LSTM(400, 400, num_layers=2, seed=1)
    yield "chain", fastrnn.Sequential(fastrnn.Linear(1000, 1000, seed=1), fastrnn.Linear(1000, 1000, seed=2))
    inner = fastrnn.Concatenated(fastrnn.GRU(600, 600, seed=1), fastrnn.Dropout(0.5), fastrnn.Linear(600, 500, seed=2))
    yield "nest of containers", fastrnn.Sequential(fastrnn.Residual(fastrnn.Linear(600, 600, seed=3)), inner)


def _read_model(path):
    storage.load_extra(path)
    return fastrnn.load(path).state_dict()


def _write_words(path):
    vocabulary = words.Vocabulary([*words.SPECIAL, "a", "b", "the", "fox", "."])
    model = fastrnn.language_model.build("gru", vocabulary=8, embedding=0, hidden=5)
    fastrnn.save(model, path, extra={"vocabulary": list(vocabulary.words)})


def _write_classifier(path):
    model = fastrnn.Sequential(
        fastrnn.GRU(2, 4, seed=1), fastrnn.MeanPool(), fastrnn.Linear(4, 3, seed=2), batch_first=True
    )
    extra = {"task": "classify", "classes": ["a", "b", "c"], "mean": [0.5, 1.0], "scale": [1.0, 2.0]}
    fastrnn.save(model, path, extra=extra)


# ---- checkpoints ----


def trainer(which=0):
    """A small trainer, of one of the kinds whose checkpoints are damaged."""
    if which == 0:
        model, rule, optimizer = _language_model(), bptt.Truncated(4), fastrnn.AdamW(0.01, amsgrad=True)
    else:
        rng = np.random.Generator(np.random.MT19937(5))
        model = fastrnn.Sequential(
            fastrnn.OneHot(11),
            fastrnn.GRU(11, 6, seed=0),
            fastrnn.Dropout(0.2, seed=rng),
            fastrnn.Linear(6, 11, seed=1),
        )
        rule, optimizer = bptt.Randomized(0.3, seed=3), fastrnn.SGD(0.1, momentum=0.9)
    return fastrnn.Trainer(model, fastrnn.CrossEntropy(), optimizer, bptt=rule, clip_norm=1.0, seed=2)


def _language_model():
    return fastrnn.Sequential(
        fastrnn.Embedding(11, 4, seed=1),
        fastrnn.LSTM(4, 6, seed=2),
        fastrnn.Dropout(0.3),
        fastrnn.Linear(6, 11, seed=3),
    )


def stream():
    """The batches of all trainers here."""
    return data.TokenStream(_TOKENS, 4, 8)


def snapshot(job):
    """All that a trainer is, good for comparing bit for bit."""
    carried = []
    map_state(lambda array: carried.append(array.tobytes()), job._state)
    arrays = {n: v.tobytes() if isinstance(v, np.ndarray) else v for n, v in job.optimizer.state_dict().items()}
    counts = job.updates, job.epoch, job.batch, job.nonfinite
    return (
        job.model.parameters.values.tobytes(), arrays, counts, repr(bptt.random_states(job.model)),
        repr(job.bptt.state_dict()), carried, id(job._batches),
    )  # fmt: skip


def _tensors_of(job):
    """All that a checkpoint of a trainer has, by name."""
    states = []
    map_state(states.append, job._state)
    tensors = {f"model.{n}": a for n, a in job.model.state_dict().items()}
    tensors |= {f"optimizer.{n}": v for n, v in job.optimizer.state_dict().items() if isinstance(v, np.ndarray)}
    return tensors | {f"state.{i}": state for i, state in enumerate(states)}


class _Checkpoints:
    """Reads checkpoints into one trainer, which must stay as it was if one does not go."""

    def __init__(self, which):
        self._which, self._job, self._loaded = which, None, None

    def __call__(self, path):
        if self._job is None:
            self._job = trainer(self._which)
            self._before = snapshot(self._job)
        try:
            self._job.load_checkpoint(path)
        except BaseException:
            if snapshot(self._job) != self._before:
                raise AssertionError("a refused checkpoint has changed the trainer") from None
            raise
        job, self._job = self._job, None
        self._loaded = job
        return _tensors_of(job)

    def go_on(self):
        """By some updates, which draw from the generators; batches that the place does not fit are refused."""
        with contextlib.suppress(ValueError), np.errstate(all="ignore"):  # numbers may be damaged, too
            self._loaded.fit(stream(), callbacks=lambda job, record: True, progress=False)


def _write_checkpoint(which):
    def write(path):
        job = trainer(which)
        job.fit(stream(), callbacks=lambda job, record: job.updates >= 3, progress=False)
        job.save_checkpoint(path, extra={"note": [1, 2.5, None, {"a": "ä"}]})

    return write


# ---- in PyTorch's names, as others write them ----


def _write_numbered(path):
    """More modules than any order is searched for."""
    stack = [
        fastrnn.Embedding(11, 4, seed=1),
        fastrnn.GRU(4, 3, num_layers=2, bidirectional=True, seed=2),
        fastrnn.Linear(6, 4, seed=3),
        *[fastrnn.Linear(4, 4, bias=bool(i % 3), seed=i) for i in range(12)],
    ]
    _write_theirs(path, {f"{i}.{name}": array for i, layer in enumerate(stack) for name, array in _items(layer)})


def _write_named(path):
    modules = {
        "head": fastrnn.Linear(6, 2, dtype="float64", seed=3),
        "encoder.rnn": fastrnn.RNN(5, 6, dtype="float64", seed=2),
        "encoder.embed": fastrnn.Embedding(7, 5, dtype="float64", seed=1),
    }
    _write_theirs(
        path, {f"{module}.{name}": array for module, layer in modules.items() for name, array in _items(layer)}
    )


def _items(layer):
    return layer.state_dict().items()


def _write_theirs(path, tensors):
    """With metadata that nobody reads, for the damage to be done to."""
    storage.write_safetensors(path, tensors, {"format": "pt", "notes": json.dumps({"layers": [{"type": 1}, 2.5]})})


_SURVIVED = "a tensor missing", "a strange name", "a json name twice", "deep json", "json cut short"


# ---- of the command line ----


def _corpus():
    return corpus.Corpus("a text", _TEXT, _TEXT)


def _run(settings, folder):
    return Run(settings, _corpus(), folder, 0)


def _write_run(path):
    settings = Settings(files=("/nowhere/text",), cell="gru", embedding=3, hidden=5, sequence=8, batch=4, steps=20)
    run = _run(settings, str(pathlib.Path(path).parent))
    run.trainer.fit(
        run.level.batches, callbacks=lambda job, record: run._note(record) or job.updates >= 3, progress=False
    )
    from fastrnn.cli.training_run import Saved

    run.trainer.save_checkpoint(path, extra=Saved(settings, run._digest, 1.5, run._log).as_json())


class _NoDisplay:
    """Takes what a run has to show."""

    def show(self, fraction, text):
        """Nothing of it."""


class _Runs:
    """Reads checkpoints of runs, and trains for one more update."""

    def __call__(self, path):
        saved = read_saved(path)
        self._run = _run(saved.settings, str(pathlib.Path(path).parent))
        self._run.restore(path, saved)
        return _tensors_of(self._run.trainer)

    def go_on(self):
        """As far as damaged numbers allow: what the command line ends in a sentence for is no harm."""
        run = self._run
        run._progress = _NoDisplay()
        run._budget.start()

        def after(trainer, record):
            run._note(record)
            run._show(run._budget.fraction(run.updates))
            return True

        if not run.finished:
            with contextlib.suppress(fastrnn.NonFiniteError, ValueError):
                run.trainer.fit(run.level.batches, callbacks=after, progress=False)


_RUNS = _Runs()
_CHECKPOINTS = _Checkpoints(0), _Checkpoints(1)
_COMMAND_REFUSALS = storage.FormatError, CommandError

_KINDS = {  # name -> (writer, reader)
    "model": (
        lambda path: fastrnn.save(_stacked(), path, extra={"words": ["a", "ä"], "number": 3.5}), Reader(_read_model),
    ),
    "nested model": (lambda path: fastrnn.save(_nested(), path), Reader(_read_model)),
    "word model": (_write_words, Reader(lambda path: load_model(path)[0].state_dict(), _COMMAND_REFUSALS)),
    "classifier": (_write_classifier, Reader(lambda path: classify._load(path).model.state_dict(), _COMMAND_REFUSALS)),
    "checkpoint": (_write_checkpoint(0), Reader(_CHECKPOINTS[0], go_on=_CHECKPOINTS[0].go_on)),
    "checkpoint with momentum": (_write_checkpoint(1), Reader(_CHECKPOINTS[1], go_on=_CHECKPOINTS[1].go_on)),
    "run": (_write_run, Reader(_RUNS, _COMMAND_REFUSALS, _RUNS.go_on)),
    "PyTorch's names": (
        lambda path: interop_torch.save(_stacked(), path),
        Reader(lambda path: interop_torch.to_state_dict(interop_torch.load(path))),
    ),
    "numbered modules of PyTorch": (
        _write_numbered, Reader(lambda path: interop_torch.load(path).state_dict(), survived=_SURVIVED, renamed=True),
    ),
    "modules of PyTorch with a hint": (
        _write_named,
        Reader(
            lambda path: interop_torch.load(path, nonlinearity="relu").state_dict(), survived=_SURVIVED, renamed=True
        ),
    ),
}  # fmt: skip
KINDS = tuple(_KINDS)


def write(folder):
    """Write a good file of each kind; its kernels run in this process."""
    for kind, (writer, _) in _KINDS.items():
        writer(str(pathlib.Path(folder) / kind))
        yield kind


def reader(kind):
    """The `Reader` of a kind of files."""
    return _KINDS[kind][1]


def agree(kind, found, content):
    """Whether the tensors that were read are those in the file, all of them and bit for bit."""
    declared = safetensors_bytes.tensors(content)
    if not reader(kind).renamed:
        return found.keys() == declared.keys() and all(
            array.shape == declared[name].shape and array.tobytes() == declared[name].tobytes()
            for name, array in found.items()
        )
    widest = max((array.dtype for array in found.values()), key=lambda dtype: dtype.itemsize)
    if any(array.dtype.kind != "f" or array.dtype.itemsize > widest.itemsize for array in declared.values()):
        return False
    with np.errstate(invalid="ignore"):
        return _by_own_names(found, widest) == _by_own_names(declared, widest)


def _by_own_names(tensors, dtype):
    """All tensors under the names that they have in their modules."""
    return sorted(
        (name.rpartition(".")[2], array.shape, array.astype(dtype).tobytes()) for name, array in tensors.items()
    )
