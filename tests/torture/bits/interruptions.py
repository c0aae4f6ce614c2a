"""Signals at random points of small runs: Ctrl-C, and handlers that save a checkpoint. All goes on in the same bits."""

import copy
import json
import os
import pickle
import signal
import sys
import time

import fastrnn
from fastrnn import bptt

from . import digests
from .runs import Run

_SIGNALS = signal.SIGINT, signal.SIGTERM
_ANSWERED = "call", "c_return"  # where Python calls handlers, besides loops' ends
_CALLERS = "fastrnn", "contextlib"  # whose points these are
_SEVERAL_UPDATES = bptt.Truncated, bptt.Online, bptt.Growing  # a batch, which is begun anew, by design in other bits
_EARLY = 100  # points of `fit`, about, in which it takes up what a break has left
_MOST_BATCHES, _MOST_POINTS = 8, 20_000  # of a run: many short ones show more
_WAYS = "in place", "in place", "from a checkpoint", "from a pickle"  # only the first keeps what is half done


class _Run(Run):
    """A run whose callbacks keep all records, for checkpoints too, and know when training has ended."""

    def __init__(self, seed, wide):
        super().__init__(seed, wide)
        self.told = _Told()
        self.callbacks.append(self.told)
        self._stateless = [_Evaluating(self._first_rows())] if self.maybe(0.6, True) else []

    def _first_rows(self):
        """Half of the first batch."""
        model, batch = self.trainer.model, next(iter(self.batches))
        if not isinstance(batch, dict):
            batch = dict(zip(("x", "targets", "lengths"), batch, strict=False))
        rows = slice(-(-batch["x"].shape[0 if model.batch_first else 1] // 2))

        def leading(name):
            return model.batch_first or name == "lengths" or name == "targets" and not model.keeps_steps

        return {name: array[rows] if leading(name) else array[:, rows] for name, array in batch.items()}

    @property
    def fits(self):
        """Whether it is short, and going on in the same bits is promised at every point."""
        batches = sum(1 for _ in copy.deepcopy(self.batches))
        return self.epochs * batches <= _MOST_BATCHES and not isinstance(self.trainer.bptt, _SEVERAL_UPDATES)

    def fit(self):
        """Train to the end."""
        self.trainer.fit(
            self.batches, epochs=self.epochs - self.trainer.epoch, validation=self.validation,
            callbacks=[*self._stateless, *self.callbacks], progress=False,
        )  # fmt: skip

    @property
    def over(self):
        """Whether there is nothing left to be gone on with."""
        watches = [callback for callback in self.callbacks if isinstance(callback, fastrnn.EarlyStopping)]
        stopped = any(watch.waited >= watch.patience for watch in watches)
        return self.told.ended or stopped or self.trainer.epoch == self.epochs

    def finish(self):
        """What Ctrl-C after the last record has kept `fit` from."""
        for callback in self.callbacks:
            if hasattr(callback, "finish"):
                callback.finish(self.trainer)


class _Told:
    """A callback that keeps what it is told."""

    def __init__(self):
        self.records, self.ended = [], False

    def __call__(self, trainer, record):
        self.records.append(json.dumps({name: value for name, value in record.items() if name != "seconds"}))

    def finish(self, trainer):
        self.ended = True

    def state_dict(self):
        return {"records": list(self.records)}

    def load_state_dict(self, state):
        self.records = list(state["records"])


class _Evaluating:
    """A callback without a state, which Ctrl-C may end: it uses the trainer's buffers in other shapes."""

    def __init__(self, batch):
        self._batch = batch

    def __call__(self, trainer, record):
        trainer.evaluate([self._batch])


class Interruptions:
    """Points of one run after the other, of new seeds; `compare` what came of them with the run never stopped."""

    def __init__(self, tally, rng, wide, path):
        self._tally, self._rng, self._wide, self._path = tally, rng, wide, os.fspath(path)
        self._number = 0
        self._trial = ""  # what is tried, in words

    def try_run(self, seed, seconds):
        """Points of a run of `seed`, or of the next that will do, for so long; one of each kind at least."""
        end = time.monotonic() + seconds
        fastrnn.set_num_threads(1)
        while not self._begin(seed):
            seed += 1
        before, tried = {number: signal.getsignal(number) for number in _SIGNALS}, 0
        kinds = self._ctrl_c, self._ending_handler, self._ctrl_c, self._saving_handler
        try:
            while tried < len(kinds) or time.monotonic() < end:
                try:
                    kinds[self._number % len(kinds)]()
                except Exception as error:
                    self._broke(f"{type(error).__name__}: {error}")
                self._number, tried = self._number + 1, tried + 1
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _begin(self, seed):
        """The run never stopped, and the number of its points; whether it is one to be tried."""
        run = _Run(seed, self._wide)
        if not run.fits:
            return False
        run.fit()  # which compiles, too
        self._seed, self._text = seed, f"seed {seed}{' (wide)' if self._wide else ''}: {run.text}"
        self._expected = run.outcome([])["digests"]
        points, _ = _fit_with_signal(run := _Run(seed, self._wide))
        self._trial = "a second time"
        self._compare(run)
        self._points = {}
        for number, place in enumerate(points, 1):
            self._points.setdefault(place, []).append(number)
        return len(points) <= _MOST_POINTS

    def _ctrl_c(self):
        """Ctrl-C once or twice, the second time often where the rest takes up what the first has left."""
        rng, self._trial = self._rng, "Ctrl-C"
        signal.signal(signal.SIGINT, signal.default_int_handler)
        points = [self._drawn_point()]
        if rng.random() < 0.3:
            points.append(self._drawn_point() if rng.random() < 0.5 else int(rng.integers(1, _EARLY)))
        run, unchanged = _Run(self._seed, self._wide), None
        for point in points:
            _, place = _fit_with_signal(run, signal.SIGINT, point)
            self._trial += f" at {place}"
            if run.over:
                break
            if place is None:
                raise AssertionError("fit has ended before its end")
            way = _WAYS[rng.integers(len(_WAYS))]
            self._trial += f", {way}"
            if way == "from a checkpoint":
                run.trainer.save_checkpoint(self._path)
                run, unchanged = self._resumed(), run.trainer.updates
            elif way == "from a pickle":
                run = pickle.loads(pickle.dumps(run))
            self._tally.count("points of a run interrupted")
        if not run.over:
            run.fit()
        elif not run.told.ended:
            run.finish()
        self._compare(run, unchanged)

    def _ending_handler(self):
        self._handler(ends=True)

    def _saving_handler(self):
        self._handler(ends=False)

    def _handler(self, ends):
        """A handler that saves a checkpoint. ends: and then ends the process; else the run goes on."""
        run, saved = _Run(self._seed, self._wide), []
        number = _SIGNALS[self._rng.integers(len(_SIGNALS))]

        def handle(*_):
            run.trainer.save_checkpoint(self._path)
            saved.append((run.over, run.trainer.updates))
            if ends:
                raise SystemExit

        self._trial = f"a handler of {number.name} that saves and {'ends' if ends else 'returns'}"
        signal.signal(number, handle)
        _, place = _fit_with_signal(run, number, self._drawn_point())
        self._trial += f" at {place}"
        if place is not None and len(saved) != 1:
            raise AssertionError(f"it was called {len(saved)} times")
        if run.told.ended or not ends:
            self._compare(run)
        if saved and not saved[0][0]:
            self._trial += ", resumed"
            other = self._resumed()
            other.fit()
            self._compare(other, saved[0][1])
            self._tally.count("points of a run interrupted")
            self._tally.count("checkpoints saved by a handler")

    def _drawn_point(self):
        """One of those in a line of the code, every line as likely, however often it is passed."""
        places = list(self._points.values())
        numbers = places[self._rng.integers(len(places))]
        return numbers[self._rng.integers(len(numbers))]

    def _resumed(self):
        """New objects that go on from the checkpoint."""
        run = _Run(self._seed, self._wide)
        run.trainer.load_checkpoint(self._path)
        return run

    def _compare(self, run, unchanged=None):
        """unchanged: the updates of the checkpoint that it goes on from, in which there are no gradients."""
        found, expected = run.outcome([])["digests"], dict(self._expected)
        if run.trainer.updates == unchanged:
            del found["gradients"], expected["gradients"]
        if names := digests.differing(found, expected):
            self._broke(f"other {names}")

    def _broke(self, what):
        self._tally.broke(f"interruption of {self._text}; {self._trial}: {what}")


def _fit_with_signal(run, number=None, at=None):
    """Fit, with the signal `number` at the point `at`, counted from 1, if any; the lines of the points until then, and
    where it came, None if nowhere."""
    points, place = [], None

    def look(frame, event, _):
        nonlocal place
        if event in _ANSWERED and (name := frame.f_globals.get("__name__", "")).startswith(_CALLERS):
            points.append((frame.f_code, frame.f_lineno))
            if len(points) == at:
                sys.setprofile(None)
                place = f"{name}:{frame.f_lineno} ({event} of {frame.f_code.co_name})"
                signal.raise_signal(number)

    sys.setprofile(look)
    try:
        run.fit()
    except (KeyboardInterrupt, SystemExit):
        pass
    finally:
        sys.setprofile(None)
    return points, place
