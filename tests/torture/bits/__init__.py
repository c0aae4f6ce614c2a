"""The same bits: on any number of threads, under each threading layer, in any company, and after any break."""

import copy
import json
import os
import pathlib
import pickle
import tempfile
import time

import fastrnn

from ..section import Section
from ..sharing import REACHED, eager
from ..threading_layers import MISSING
from . import digests
from .interruptions import Interruptions
from .runs import PLACES, Run
from .workers import Worker, WorkerError

_LAYERS = {"omp": 5, "workqueue": 3, "tbb": 3}  # with numbers of threads: more than there are cores, too
_WIDE = 60  # seconds from which on all cells are drawn, each of which may have to be compiled
_CROWDS = 0, 1, None, None, None, None, 2, 3, None, None, None, None  # see `sweeps.sweep`
_INTERRUPTING = 1  # seconds at a time, at most, a third of all where nothing has to be compiled
_RESTART = 20  # cases after which a process is killed after it has written a checkpoint


class _Bits:
    """The workers, and the cases one after the other."""

    def __init__(self, tally, budget, folder):
        self._tally, self._budget, self._folder = tally, budget, folder
        self._wide = budget.left() > _WIDE
        self._workers, self._kernels = [], set()
        self._interruptions = Interruptions(tally, budget.rng, self._wide, folder / "interrupted")

    def start(self):
        """Start a worker for each threading layer that is there; returns how many there are."""
        for worker in [Worker(layer, threads) for layer, threads in _LAYERS.items()]:
            try:
                layer, _ = worker.answer()
            except WorkerError as error:
                worker.kill()
                if MISSING not in str(error):
                    raise
                self._tally.note(f"Numba has no threading layer {worker.layer} here: not tried")
                continue
            if layer != worker.layer:
                self._tally.broke(f"Numba took the threading layer {layer} instead of {worker.layer}")
            self._workers.append(worker)
        return len(self._workers)

    def count_kernels(self):
        """Tell how many kernels the results came from."""
        self._tally.count("kernels at work", len(self._kernels))

    def stop(self):
        """End all workers."""
        while self._workers:
            self._workers.pop().kill()

    def go_on(self):
        """Cases until the time is up, one at least."""
        number = 0
        while number < 2 or self._budget.left() > 0:
            began = time.monotonic()
            self._try(self._sweep, crowd=_CROWDS[number % len(_CROWDS)])
            number += 1
            self._try(self._train, killed=number % _RESTART == 0)
            self._try(self._interrupt, seconds=min((time.monotonic() - began) / 2, _INTERRUPTING))
        self._try(self._train, killed=True)

    def _try(self, case, **options):
        """A case of a new seed; an error is one that did not hold, too."""
        seed = int(self._budget.rng.integers(2**32))
        try:
            case(seed, **options)
        except Exception as error:
            self._tally.broke(f"{case.__name__} of {self._case(seed)}: {type(error).__name__}: {error}")
            self.stop()  # one may still be at work on this case
            self.start()

    def _case(self, seed):
        return f"seed {seed}{' (wide)' if self._wide else ''}"

    def _interrupt(self, seed, *, seconds):
        self._interruptions.try_run(seed, seconds)

    def _sweep(self, seed, *, crowd):
        results = self._ask_all("sweep", seed=seed, wide=self._wide, crowd=crowd)
        for worker, result in results:
            for what in result["broken"]:
                self._tally.broke(f"sweep of {self._case(seed)}, {worker.name}: {what}: {result['text']}")
            if names := digests.differing(result["digests"], results[0][1]["digests"]):
                others = results[0][0].name
                self._tally.broke(f"sweep of {self._case(seed)}, {worker.name}: not as {others}: {names}")
            self._tally.count("results compared with those of one thread, alone, padded, or in other room",
                              result["compared"])  # fmt: skip
            self._tally.count("shapes known to be shared among threads", int(result["shared"]))
            for what in result["reached"]:
                self._tally.count(f"shapes with {what}")
            self._kernels.update(result["kernels"])
        self._tally.count("shapes swept")

    def _ask_all(self, order, **arguments):
        """(worker, result) of each, which all work at once."""
        for worker in self._workers:
            worker.ask(order, **arguments)
        return [(worker, worker.answer()) for worker in self._workers]

    def _train(self, seed, *, killed):
        """One run straight through on one thread, which all others are compared with: on threads, and in two parts.

        killed: a worker is, after it has written the checkpoint of the last comparison.
        """
        rng = self._budget.rng
        fastrnn.set_num_threads(1)
        run = Run(seed, self._wide)
        expected = run.train()
        text = f"run of {self._case(seed)}: {run.text}"
        for worker in self._workers:
            worker.ask("train", seed=seed, wide=self._wide, threads=int(rng.integers(2, worker.threads + 1)))

        records = len(expected["records"])
        breaks = [_drawn_break(rng, records, inside) for inside in _inside(rng)]
        path = os.path.join(self._folder, "checkpoint")
        first = Run(seed, self._wide).train(**breaks[0], save=path)
        self._compare(f"{text}, resumed after {breaks[0]}", expected,
                      Run(seed, self._wide).train(resume=path), first)  # fmt: skip
        self._tally.count("resumes compared, with new objects")
        same, at = Run(seed, self._wide), _drawn_break(rng, records, True)
        first = same.train(**at)
        copies = {"a deep copy": copy.deepcopy(same), "a pickled copy": pickle.loads(pickle.dumps(same))}
        for what, run in ({"the run": same} | copies).items():
            self._compare(f"{text}, {what} gone on with after {at}", expected, run.train(), first)
        self._tally.count("runs gone on with after Ctrl-C")
        self._tally.count("of them after one in a callback", at["inside"] != PLACES[0])
        self._tally.count("copied runs gone on with after Ctrl-C", len(copies))

        for worker in self._workers:
            self._compare(f"{text}, {worker.name}", expected, worker.answer())
            self._tally.count("training runs compared with that on one thread")

        one = self._workers[rng.integers(len(self._workers))]
        one.ask("train", seed=seed, wide=self._wide, threads=one.threads, **breaks[1], save=path)
        first = one.answer()
        if killed:
            other = self._replaced(one)
        else:
            other = self._workers[rng.integers(len(self._workers))]
        other.ask("train", seed=seed, wide=self._wide, threads=1, resume=path)
        self._compare(f"{text}, resumed after {breaks[1]} in another process", expected, other.answer(), first)
        self._tally.count("resumes compared, in another process")
        self._tally.count("resumes compared, after Ctrl-C within a batch")

    def _replaced(self, worker):
        """A new worker in the place of one that is killed."""
        worker.kill()
        self._tally.count("processes killed after a checkpoint")
        new = Worker(worker.layer, worker.threads)
        self._workers[self._workers.index(worker)] = new
        new.answer()
        return new

    def _compare(self, what, expected, found, first=None):
        """`found` must be what was `expected`; first: what came before the break that it went on from."""
        texts = []
        for result, before in ((found, first), (expected, None)):
            records = (before["records"] if before else []) + result["records"]
            texts.append(result["digests"] | {"records": json.dumps(records)})  # a NaN equals itself there
            if not any("loss" in record for record in found["records"]):
                del texts[-1]["gradients"]  # those of the last update, which was before the break
        names = digests.differing(*texts)
        if names:
            self._tally.broke(f"{what}: other {names}")


def _drawn_break(rng, records, inside):
    """The arguments of `Run.train` for a break, `inside` a batch or between two, of a run of so many records."""
    stop = int(rng.integers(not inside, records))
    places = PLACES if stop < records - 1 else PLACES[:1]  # of the last record callbacks are told before the break
    return {"stop": stop, "inside": str(rng.choice(places)) if inside else None}


def _inside(rng):
    """Whether the first and the second break are within a batch: one of them."""
    first = bool(rng.integers(2))
    return first, not first


def run(tally, budget):
    """Try random runs and shapes until the time is up."""
    eager()
    with tempfile.TemporaryDirectory() as folder:
        bits = _Bits(tally, budget, pathlib.Path(folder))
        try:
            tally.count("threading layers", bits.start())
            bits.go_on()
            bits.count_kernels()
        finally:
            bits.stop()


SECTION = Section(
    promise="the same seed gives the same bits on this machine: on any number of threads, under each of Numba's "
    "threading layers, and after a break at any point; no result depends on the batch's company, padding or room",
    run=run,
    share=2.0,
    targets={
        "threading layers": 2,
        "kernels at work": 60,
        "shapes swept": 200,
        "training runs compared with that on one thread": 400,
        "resumes compared, with new objects": 200,
        "resumes compared, in another process": 200,
        "resumes compared, after Ctrl-C within a batch": 200,
        "runs gone on with after Ctrl-C": 200,
        "copied runs gone on with after Ctrl-C": 400,
        "processes killed after a checkpoint": 5,
        "points of a run interrupted": 500,
        "checkpoints saved by a handler": 200,
    }
    | {f"shapes with {what}": 25 for what in REACHED},
)
