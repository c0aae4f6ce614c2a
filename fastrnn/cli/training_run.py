"""One run of `fastrnn train`: trainer, text, budget, history and files."""

import dataclasses
import hashlib
import json
import math
import os
import sys
import time
from typing import Any, NamedTuple

from .. import checks, corpus, language_model, storage
from ..finite import NonFiniteError
from ..losses import CrossEntropy
from ..optim import Adam
from ..safetensors_reader import parse_json
from ..schedules import OneCycle
from ..trainer import Trainer
from .common import CHECKPOINT_FILE, MODEL_FILE, CommandError, Progress
from .levels import LEVELS, level_of

HISTORY_FILE = "history.jsonl"

_UPDATES_PER_LINE = 20  # of the history
_LINES_OF_SPEED = 10  # the last ones, from which the speed on display follows
_EVALUATIONS = 8  # of the held-out part in a run, the final one included
_FINE = 1_000_000  # steps of the schedule when time, not updates, says how far it is


@dataclasses.dataclass(frozen=True)
class Settings:
    """What fixes a run's result, kept in its checkpoints."""

    files: tuple[str, ...] = ()
    level: str = "byte"
    vocabulary: int = 8000  # words at most, at the level of words
    cell: str = "lstm"
    embedding: int = 64
    hidden: int = 256
    layers: int = 1
    dropout: float = 0.0
    sequence: int = 64  # at the level of bytes
    batch: int = 32
    lr: float = 8e-3
    clip: float = 1.0
    steps: int = 3000
    seconds: float | None = None
    seed: int = 0


# What the settings may be, beside those that are numbers above 0; integers at least these.
_CHOICES = {"level": tuple(LEVELS), "cell": tuple(language_model.CELLS)}
_INTEGERS = {
    "vocabulary": 1, "embedding": 0, "hidden": 1, "layers": 1, "sequence": 1, "batch": 1, "steps": 1, "seed": 0,
}  # fmt: skip
_MOST = (1 << 63) - 1
_BEFORE_LEVELS = {"level": "byte", "vocabulary": Settings.vocabulary}  # of checkpoints that don't say


class _Log(NamedTuple):
    """What a run has to tell so far. It is replaced as a whole, for Ctrl-C may come at any moment."""

    step: int = 0
    lines: tuple[str, ...] = ()  # of the history, JSON: as objects they would take several times the memory
    evaluations: int = 0
    pending: tuple[float, ...] = ()  # losses since the last line, as the level measures them


class Saved(NamedTuple):
    """What a checkpoint holds besides what the trainer needs."""

    settings: Settings
    text: str  # digest of the corpus
    seconds: float  # of training so far
    log: _Log

    def as_json(self) -> dict:
        """All of it in a form for JSON."""
        log = {**self.log._asdict(), "lines": "\n".join(self.log.lines)}
        return {**self._asdict(), "settings": dataclasses.asdict(self.settings), "log": log}


def read_saved(path: str) -> Saved:
    """The `Saved` of the checkpoint at `path`; FormatError if it has none."""
    tensors, meta = storage.load_tensors(path, "checkpoint")
    try:
        extra = meta["extra"]
        settings = _checked_settings({**_BEFORE_LEVELS, **extra["settings"]})
        _check_model(settings, tensors, meta["architecture"])
        seconds = checks.number("seconds", extra["seconds"], minimum=0)
        return Saved(settings, _text("text", extra["text"]), seconds, _checked_log(extra["log"]))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = storage.short(str(error))
        raise storage.FormatError(f"{path} is not a checkpoint of 'fastrnn train', or is damaged ({reason})") from None


def _checked_settings(values):
    """`Settings` of a checkpoint, each found to be what the option takes."""
    files = values["files"]
    if not isinstance(files, list):
        raise TypeError(f"files must be a list, got {checks.shown(files)}")
    checked: dict[str, Any] = {"files": tuple(_text("files", path) for path in files)}
    checked |= {name: checks.choice(name, values[name], options) for name, options in _CHOICES.items()}
    checked |= {name: checks.integer(name, values[name], minimum=low, maximum=_MOST) for name, low in _INTEGERS.items()}
    checked |= {name: checks.number(name, values[name], above=0) for name in ("lr", "clip")}
    checked["dropout"] = checks.number("dropout", values["dropout"], minimum=0, below=1)
    seconds = values["seconds"]
    checked["seconds"] = None if seconds is None else checks.number("seconds", seconds, above=0)
    if values.keys() != checked.keys():
        raise ValueError(f"there are settings of the names {sorted(values)}")
    return Settings(**checked)


def _check_model(settings, tensors, architecture):
    """Refuse `settings` of another model than the checkpoint holds: one of their size is made before it is read."""
    prefix = "model."
    storage.check_fits(architecture, {n.removeprefix(prefix): a for n, a in tensors.items() if n.startswith(prefix)})
    cell = language_model.CELLS[settings.cell].__name__
    configs = [layer["config"] for layer in architecture["layers"] if layer["type"] == cell]
    embedding = [config["input_size"] if settings.embedding else 0 for config in configs]  # else that of the vocabulary
    found = [(config["hidden_size"], config["num_layers"]) for config in configs]
    if (found, embedding) != ([(settings.hidden, settings.layers)], [settings.embedding]):
        raise ValueError("its settings are those of another model than it holds")


def _checked_log(values):
    """The `_Log` of a checkpoint."""
    lines = values["lines"]
    lines = tuple(lines.splitlines() if isinstance(lines, str) else map(json.dumps, lines))  # older ones have objects
    for text in lines:
        line = parse_json(text, len(text))
        checks.integer("step", line["step"], minimum=0, maximum=_MOST)
        checks.number("seconds", line["seconds"], minimum=0)
        for name, value in line.items():
            if type(value) is not float:  # which may be infinite
                checks.integer(storage.short(name), value)
    pending = tuple(checks.number("pending", loss) for loss in values["pending"])
    step, evaluations = (checks.integer(n, values[n], minimum=0, maximum=_MOST) for n in ("step", "evaluations"))
    return _Log(step, lines, evaluations, pending)


def _text(name, value):
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, got {checks.shown(value)}")
    return value


class _Budget:
    """How much of a run is done, in updates or in time, and the learning rate that goes with it."""

    def __init__(self, settings):
        self._steps, self._seconds = settings.steps, settings.seconds
        self._schedule = OneCycle(_FINE if self._seconds else self._steps)
        self._before, self._began = 0.0, None

    def start(self):
        """Let the time run."""
        self._began = time.perf_counter()

    @property
    def elapsed(self):
        """Seconds of training, those before an interruption included."""
        return self._before + (0.0 if self._began is None else time.perf_counter() - self._began)

    @elapsed.setter
    def elapsed(self, seconds):
        self._before, self._began = seconds, None

    def fraction(self, updates):
        """How much is done after so many updates."""
        return self.elapsed / self._seconds if self._seconds else updates / self._steps

    def factor(self, updates):
        """Of the learning rate at the next update."""
        if self._seconds:
            return self._schedule(min(int(self.fraction(updates) * _FINE), _FINE - 1))
        return self._schedule(updates)


class Run:
    """Trains by `settings` on `text`, and keeps checkpoints and a history in `folder`."""

    def __init__(self, settings: Settings, text: corpus.Corpus, folder: str, checkpoint_interval: float):
        s = self.settings = settings
        self.text, self.folder, self._interval = text, folder, checkpoint_interval
        self.level = level_of(s, text)
        self._budget = _Budget(s)
        self.model = self.level.model(s)
        self.trainer = Trainer(
            self.model, CrossEntropy(), Adam(s.lr), bptt=self.level.rule, clip_norm=s.clip,
            nonfinite="raise", schedule=self._budget.factor, seed=s.seed,
        )  # fmt: skip
        whole = b"%d %b%b" % (len(text.training), text.training, text.held_out)
        self._digest = hashlib.sha256(whole).hexdigest()
        self._log = _Log()
        self._progress: Any = None
        self._saved_at = 0.0

    def restore(self, checkpoint: str, saved: Saved) -> None:
        """Take up the run that wrote `checkpoint`, in which `saved` was found."""
        if saved.text != self._digest:
            raise CommandError(f"{self.text.name} is not the text that {checkpoint} is of: it has changed since")
        self.trainer.load_checkpoint(checkpoint)
        self.level.take_up(self.trainer)
        try:
            self.trainer._restore_place(self.level.batches)
        except (TypeError, ValueError) as error:
            raise storage.FormatError(f"{checkpoint} is damaged: {storage.short(str(error))}") from None
        self._log, self._budget.elapsed = saved.log, saved.seconds

    def path(self, name: str) -> str:
        """Of a file in the run's folder."""
        return os.path.join(self.folder, name)

    @property
    def updates(self) -> int:
        """Made so far."""
        return self.trainer.updates

    @property
    def lines(self) -> list[dict]:
        """Of the history so far."""
        return list(map(json.loads, self._log.lines))

    @property
    def seconds(self) -> float:
        """Of training so far."""
        return self._budget.elapsed

    @property
    def finished(self) -> bool:
        """Whether the budget is used up."""
        return self._budget.fraction(self.updates) >= 1

    def train(self) -> bool:
        """Train to the end of the budget, or until Ctrl-C, and save. Returns whether the end was reached."""
        self._budget.start()
        complete = True
        if not self.finished:
            with Progress("train", self._budget.fraction(self.updates)) as self._progress:
                self._saved_at = self.seconds
                batches = self.level.batches
                try:
                    history = self.trainer.fit(batches, epochs=sys.maxsize, callbacks=self._after, progress=False)
                except NonFiniteError as error:
                    raise CommandError(self._went_wrong(error)) from None
            complete = history.stopped != "interrupt"
            for record in history[-1:]:
                self._note(record)  # Ctrl-C may have come before the callback
        self._budget.elapsed = self.seconds  # the time stands still
        self.save()
        storage.save(self.model, self.path(MODEL_FILE), extra=self.level.extra)
        return complete

    def _went_wrong(self, error):
        """What to say of a training that gave NaN or infinity. The last checkpoint stays; where there is none yet, one
        is written: the model is that of the last good update."""
        checkpoint, good = self.path(CHECKPOINT_FILE), ""
        if self.updates and not os.path.exists(checkpoint):
            self._budget.elapsed = self.seconds
            self.save()
        if os.path.exists(checkpoint):
            good = f"; {checkpoint} is from before"
        return f"training went wrong, not all numbers are finite: {error}{good}; try a smaller --lr"

    def _after(self, trainer, record):
        """What is done after an update; True ends the training."""
        self._note(record)
        fraction = self._budget.fraction(self.updates)
        self._show(fraction)
        if fraction >= 1:
            return True
        if fraction * _EVALUATIONS >= self._log.evaluations + 1:
            value = self.evaluate()
            self._progress.line(f"update {self.updates}: held-out {self.level.shown(value)}")
        if self._interval and self.seconds - self._saved_at >= self._interval:
            self.save()
        return False

    def _note(self, record):
        """Take an update into the log, once."""
        log, step = self._log, record["step"]
        if step <= log.step:
            return
        lines, pending = log.lines, (*log.pending, self.level.measured(record["loss"]))
        if step % _UPDATES_PER_LINE == 0:
            value = self.level.value(sum(pending) / len(pending))
            more = {"learning_rate": record["lr"], "gradient_norm": record["grad_norm"]}
            line = {"step": step, self.level.training: value, **more, "seconds": round(self.seconds, 3)}
            lines, pending = (*lines, json.dumps(line)), ()
        self._log = log._replace(step=step, lines=lines, pending=pending)

    def _show(self, fraction):
        """On the progress display: loss and speed lately."""
        recent = [{"step": 0, "seconds": 0.0}, *map(json.loads, self._log.lines[-_LINES_OF_SPEED:])][-_LINES_OF_SPEED:]
        updates, seconds = self.updates - recent[0]["step"], self.seconds - recent[0]["seconds"]
        level, pending = self.level, self._log.pending
        speed = level.speed(updates * level.tokens_per_update / seconds if seconds > 0 else 0.0)
        value = level.value(sum(pending) / len(pending)) if pending else recent[-1].get(level.training, math.nan)
        self._progress.show(fraction, f"update {self.updates}, {level.shown(value)}, {speed}")

    def evaluate(self) -> float:
        """The figure of the held-out part, which goes into the history."""
        value = self.level.evaluate(self.model)
        line = {"step": self.updates, self.level.held_out: value, "seconds": round(self.seconds, 3)}
        lines = (*self._log.lines, json.dumps(line))
        self._log = self._log._replace(lines=lines, evaluations=self._log.evaluations + 1)
        return value

    def save(self) -> None:
        """Write a checkpoint and the history."""
        self._saved_at = self.seconds
        saved = Saved(self.settings, self._digest, self.seconds, self._log)
        self.trainer.save_checkpoint(self.path(CHECKPOINT_FILE), extra=saved.as_json())
        self.write_history()

    def write_history(self) -> None:
        """Write the history so far, a JSON object a line."""
        with storage.atomic_write(self.path(HISTORY_FILE)) as file:
            file.writelines(line.encode() + b"\n" for line in self._log.lines)
