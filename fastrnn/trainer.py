"""The training loop: updates by a rule of truncation, epochs, validation, callbacks, checkpoints."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from . import checks, finite, storage
from .bit_generators import check_state, plain
from .bptt import Buffers, Full, Rule, Run, check_loss, map_state, random_states, set_random_states
from .checkpoint_state import (
    COUNTS,
    check_names,
    checked_callback_states,
    checked_place,
    keeps_state,
    place_of_next_pass,
    restore_callbacks,
    restore_place,
    stored_callback_states,
)
from .finite import IGNORE, RAISE, SKIP, NonFiniteError
from .interrupts import Interrupts
from .optim import LastGood, check_undoable, gradient_norm, limit_gradients
from .progress import progress_bar

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .layers.base import Layer
    from .types import Batch, Callback, Loss, Optimizer, State

_MOST = (1 << 63) - 1  # of a count
_BATCH_NAMES = ("x", "targets", "lengths", "mask", "resets")
_END = object()

_log = logging.getLogger(__name__)


class History(list[dict[str, Any]]):
    """What `fit` recorded: one dict a batch, and one an epoch with validation, all of it good for JSON.

    A batch's: `step` (updates so far), `epoch` (from 0), `loss`, `lr` and `grad_norm` (before clipping) of its last
    update, `seconds` since `fit` began; and, only if there were any, `nonfinite`: how often its gradients were not
    finite. An epoch's: `step`, `epoch`, `validation_loss`, `seconds`.

    `stopped` says what ended training early: None, "callback" or "interrupt". `interrupted`: whether Ctrl-C came, be it
    in the update after which a callback stopped.
    """

    stopped: str | None = None
    interrupted: bool = False


class Trainer:
    """Trains `model`, a layer or a `Sequential`, by gradient descent.

    loss: one of `fastrnn`'s losses.
    optimizer: `optimizer.step(model, factor)` moves the parameters.
    bptt: a rule of `fastrnn.bptt`; None is `Full()`.
    clip_norm, clip_value: gradients are scaled down to this norm, then clipped to this value, see `clip_gradients`;
        None for not.
    nonfinite: what to do about NaN and infinity. "ignore" goes on with them. "skip" leaves out an update whose
        gradients have a norm that is not finite, or after which parameters or the optimizer's state would not be
        finite: parameters, optimizer and `updates` stay, and `fit` carries no such state to the next batch. "raise"
        looks at parameters, state, x, every layer's output and the loss, too, and leaves out the update with a
        `NonFiniteError` that names the first place: what the last good update left stays, a state that `step` returned
        included. Both keep copies of parameters and of the optimizer's state, for which it must have `state_dict` and
        `load_state_dict`, undo an update in which the optimizer raises, too, and save no checkpoint of parameters that
        are not finite.
    schedule: callable, number of updates so far -> factor of the optimizer's learning rate.
    seed: of the model's dropout masks, an integer ≥ 0; None leaves the model's generators as they are.

    `updates` counts the updates, `epoch` the finished epochs, `batch` the batches done in the one under way,
    `nonfinite` how often gradients, or what else was looked at, were not finite.
    One thread uses a trainer at a time. A copy, or one out of a pickle, goes on as from a checkpoint.
    Buffers are kept: after the largest batch, no step allocates arrays.
    """

    def __init__(
        self,
        model: Layer,
        loss: Loss,
        optimizer: Optimizer,
        *,
        bptt: Rule | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        nonfinite: str = IGNORE,
        schedule: Callable[[int], float] | None = None,
        seed: int | None = 0,
    ):
        bptt = Full() if bptt is None else bptt
        if not isinstance(bptt, Rule):
            raise TypeError(f"bptt must be a rule of fastrnn.bptt, got {checks.shown(bptt)}")
        bptt.check(model)
        check_loss(loss)
        if hasattr(schedule, "needs_validation"):
            raise TypeError(f"schedule must give a factor for a step: {type(schedule).__name__} is a callback of fit")
        if schedule is not None and not callable(schedule):
            raise TypeError(f"schedule must be callable, step -> factor, got {type(schedule).__name__}")
        self.clip_norm = None if clip_norm is None else checks.number("clip_norm", clip_norm, above=0)
        self.clip_value = None if clip_value is None else checks.number("clip_value", clip_value, above=0)
        self._on_nonfinite = checks.choice("nonfinite", nonfinite, (IGNORE, RAISE, SKIP))
        self._last_good = None if self._on_nonfinite == IGNORE else LastGood()
        self.optimizer = optimizer
        if seed is not None:
            seed = checks.integer("seed", seed, minimum=0)
            generators = model._generators()
            for generator, child in zip(generators, np.random.SeedSequence(seed).spawn(len(generators)), strict=True):
                generator.bit_generator.state = type(generator.bit_generator)(child).state
        self.model, self.loss, self.bptt, self.schedule = model, loss, bptt, schedule
        self.updates = self.epoch = self.batch = self.nonfinite = 0
        self._state = None  # carried from batch to batch within an epoch
        self._batches: Iterable | None = None  # what `batch` counts in; None before the first epoch and in a checkpoint
        self._place: dict[str, Any] | None = None  # of the next batch in them, if they can tell
        self._validation: Iterable | None = None  # of the last `fit` that had one
        self._validation_place: dict[str, Any] | None = None  # of the next pass over it, if that is not over `_batches`
        self._callbacks: tuple[Callback, ...] = ()  # of the last `fit`
        self._callback_states: list[tuple[str, dict[str, Any]]] = []  # from a checkpoint, with names of their classes
        self._last_update: dict[str, Any] = {}
        # while an update is under way, the states of the random generators and of the rule before it
        self._before_update: tuple[list[dict[str, Any]], dict[str, Any]] | None = None
        self._evaluating = False
        self._buffers = Buffers()
        self._interrupts = Interrupts()

    def __getstate__(self):
        """Copies and pickles go on as from a checkpoint, with a model and an optimizer of their own."""
        callbacks = {"_callbacks": (), "_callback_states": self._states_of_callbacks()}
        anew = {"_batches": None, "_validation": None, "_buffers": Buffers(), "_interrupts": Interrupts()}
        anew |= {"_before_update": None, "_evaluating": False}
        return {**self.__dict__, **callbacks, **anew}

    @property
    def optimizer(self) -> Optimizer:
        """What moves the parameters. Another one may be set between two steps; TypeError for what is none, or can't be
        undone though `nonfinite` calls for it."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, value):
        if isinstance(value, type) or not callable(getattr(value, "step", None)):
            raise TypeError(f"optimizer must be an optimizer of fastrnn, got {checks.shown(value)}")
        if self._on_nonfinite != IGNORE:
            check_undoable(value)
        self._optimizer = value

    # one batch

    def step(
        self,
        x: ArrayLike,
        targets: ArrayLike,
        state: State = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> tuple[float, State]:
        """Train on one batch of sequences, with one update or several, by the rule.

        Arguments as in `bptt.Rule.gradients`; `lengths` also masks the loss. Returns `(value, state)`: the loss of the
        whole batch, each part before its update, and the final state, which may be handed to the next call and is good
        until then. The last update's gradients stay in the model.

        TypeError or ValueError, before anything is changed, if an argument does not fit; `NonFiniteError` for what is
        not finite, if so asked, after the updates before it. After any error the random generators of the model and the
        rule are where the last update left them.
        """
        if self._on_nonfinite == RAISE and finite.current() is None:
            options = {"lengths": lengths, "resets": resets, "mask": mask}
            try:
                value, state = finite.watched(RAISE, self.model, self.step, x, targets, state, **options)
            except NonFiniteError as error:
                self.nonfinite += 1
                error.note = f"after {self.updates} updates"
                raise
            return value, map_state(np.copy, state)  # the next call, which may go wrong, does not write it
        if self._before_update is not None:  # a signal's handler calls, in the middle of it
            raise RuntimeError("this trainer is in the middle of an update: what it calls must not call its `step`")
        run = Run(self.model, self.loss, self._buffers, x, targets, state, lengths, mask, resets=resets, joint=False)
        with self._interrupts.held((signal.SIGINT,)):
            for add_gradients in self.bptt.updates(run):
                random, rule = self._before_update = random_states(self.model), self.bptt.state_dict()
                try:
                    with self._interrupts.allowed():
                        self.model.zero_grad()
                        count = add_gradients()
                        run._finish_sums()
                    if count:
                        with self._interrupts.allowed(False):
                            self._update(run)
                except BaseException:  # as if the update had never been begun
                    set_random_states(self.model, random)
                    self.bptt.load_state_dict(rule)
                    raise
                finally:
                    self._before_update = None
        return run.value, run.state

    def _update(self, run):
        if self._on_nonfinite == RAISE and not math.isfinite(run.total):
            raise NonFiniteError(f"the loss becomes {run.total}")
        factor = 1.0
        if self.schedule is not None:
            factor = checks.number("what schedule returns", self.schedule(self.updates), minimum=0.0)
        norm = gradient_norm(self.model)
        self._last_update = {"lr": float(self.optimizer.lr * factor), "grad_norm": norm}
        if not math.isfinite(norm):
            if self._on_nonfinite == RAISE:
                raise self._error_of_norm(norm)
            self.nonfinite += 1
            if self._on_nonfinite == SKIP:
                return
        limit_gradients(self.model, norm, self.clip_norm, self.clip_value)
        if self._last_good is None:
            self.optimizer.step(self.model, factor)
        elif (error := self._last_good.step(self.model, self.optimizer, factor)) is not None:
            if self._on_nonfinite == RAISE:
                error.what = f"an update goes wrong: {error.what}"
                raise error
            self.nonfinite += 1
            return
        self.updates += 1

    def _error_of_norm(self, norm):
        what, gradients = f"the norm of the gradients is {norm}", self.model.parameters.gradients
        if finite.is_finite(gradients):  # their squares are not
            return NonFiniteError(what)
        error = finite.error_in_vector(self.model, gradients, "the gradient of ")
        error.what = f"{what}: {error.what}"
        return error

    # many batches

    def fit(
        self,
        batches: Iterable[Batch],
        *,
        epochs: int = 1,
        validation: Iterable[Batch] | None = None,
        callbacks: Callback | Iterable[Callback] = (),
        progress: bool = True,
    ) -> History:
        """Train on all `batches`, `epochs` times over.

        batches: an iterable, for more than one epoch one that can be gone through again, of `(x, targets)`,
            `(x, targets, lengths)` or dicts with these names, `mask` and `resets`. Over one with a true attribute
            `stateful`, such as a `TokenStream`, the state is carried from batch to batch within an epoch. Batches with
            `state_dict()`, a place in a pass as JSON can hold it, and `load_state_dict(state)`, which lets the next
            pass begin there, go on there: those of `fastrnn.data` have them, and any that draw at random should. Of
            others, those done are passed over.
        validation: the same, for `evaluate` at the end of each epoch. Those that draw at random go on there, too.
        callbacks: called as `callback(trainer, record)` for every new record, see `History`. One that returns True
            stops training. `fastrnn.callbacks` has some, and says what else they may have. After `load_checkpoint`,
            each gets the state that the checkpoint has of one of its class, in their order.
        progress: show a bar, on a terminal or in a notebook, if tqdm is installed (`pip install 'fastrnn[train]'`).

        The logger "fastrnn" is told of every epoch's results (INFO), of gradients that are not finite (WARNING, once an
        epoch), and of what ends training early (INFO).

        Ctrl-C ends training, too, and never in the middle of an update. Nor does it, or an error of one of them, keep
        other callbacks from being told of a record; it ends one that is under way unless that keeps a state. Your own
        handlers of signals are called where `save_checkpoint` gives a checkpoint to go on from: not between an update
        and the end of its record's callbacks.

        What was stopped goes on: an epoch that ended early, or came from a checkpoint, is finished first when `fit` is
        called again with the same batches, and counts as one of `epochs`. Only if Ctrl-C came between two updates of
        one batch is that batch begun anew.

        ValueError if a checkpoint comes from the middle of an epoch of batches that are not laid out like these, or
        holds what one of `callbacks` does not take; RuntimeError if this `fit` was called by what `fit` calls.
        """
        epochs = checks.integer("epochs", epochs, minimum=1)
        progress = checks.flag("progress", progress)
        called = _check_fit_arguments(batches, validation, callbacks, self.bptt)
        self._check_idle("fit")
        finishers = [callback.finish for callback in called if hasattr(callback, "finish")]
        same = self._batches is batches and not isinstance(batches, Iterator)
        if self._batches is not None and not (same and self.batch):  # a new epoch, or what is left of an iterator
            place = place_of_next_pass(batches) if same else None
            self.batch, self._state, self._place = 0, None, place
        if self._validation is not None and validation is not None and validation is not self._validation:
            self._validation_place = None
        if self._validation_place is None and validation is not None and validation is not batches:
            self._validation_place = place_of_next_pass(validation)  # for a checkpoint before it
        self._restore_place(batches)
        self._restore_callbacks(called)
        self._batches, self._callbacks = batches, called
        if validation is not None:
            self._validation = validation
        history = History()
        held = self._interrupts.held(signal.valid_signals())
        with held, progress_bar(progress, batches, epochs, self.batch) as show:
            try:
                for record in self._records(batches, epochs, validation):
                    history.append(record)
                    stoppers, history.interrupted = self._tell((show, *called), record)
                    if stoppers:
                        history.stopped = "callback"
                        name = getattr(stoppers[0], "__name__", type(stoppers[0]).__name__)
                        _log.info("%s stopped training after %d updates", name, self.updates)
                        break
                else:
                    self._interrupts.answer()
                _, problem = _call_all(functools.partial(finish, self) for finish in finishers)
                if problem is not None:
                    raise problem
                self._interrupts.answer()
            except KeyboardInterrupt:
                history.stopped, history.interrupted = "interrupt", True
                _log.info("interrupted after %d updates", self.updates)
            finally:
                if not self.batch:  # a pass that has been begun may have to be begun again
                    self._restore_place(batches)
        return history

    def _records(self, batches, epochs, validation):
        """Train, and yield a record after each batch and each validation."""
        begin = time.perf_counter()

        def record(**entries):
            return {"step": self.updates, "epoch": self.epoch, **entries, "seconds": time.perf_counter() - begin}

        for _ in range(epochs):
            with self._interrupts.allowed():
                placed = self._restore_place(batches)
                if not self.batch and not placed:
                    self._place = place_of_next_pass(batches)
                iterator = iter(batches) if placed else itertools.islice(batches, self.batch, None)
            losses, bad = [], 0
            while True:
                with self._interrupts.allowed():
                    batch = next(iterator, _END)
                if batch is _END:
                    following = _place_in(batches)  # before a validation that goes through the same batches
                    break
                before = self.nonfinite
                value = self._fit_batch(_arguments(batch), _is_stateful(batches))
                self._place = _place_in(batches)
                found = self.nonfinite - before
                if found and not bad:
                    _log.warning("gradients are not finite at update %d, loss %g", self.updates, value)
                losses.append(value)
                bad += found
                yield record(loss=value, **self._last_update, **({"nonfinite": found} if found else {}))
            if self.batch == 0:
                raise ValueError("batches gave nothing: it must be an iterable that can be gone through once an epoch")
            last = None
            if validation is not None:
                with self._interrupts.allowed():
                    if validation is not batches:
                        self._restore_validation_place(validation)
                    last = record(validation_loss=self.evaluate(validation))
                if validation is not batches:
                    self._validation_place = _place_in(validation)
                self.bptt.observe(last["validation_loss"])
            self.epoch += 1
            self.batch, self._state, self._place = 0, None, following
            _log_epoch(self, losses, last, bad, time.perf_counter() - begin)
            if last is not None:
                yield last

    def _tell(self, callbacks, record):
        """Tell every callback of a record, whatever others raise, and Ctrl-C; those that stop training, and whether
        they had to stop for Ctrl-C, too, which raises otherwise.

        Ctrl-C ends none that keeps a state, which is the run's. Other signals are answered when all have been told.
        """

        def tell(callback):
            with self._interrupts.allowed(not keeps_state(callback), waiting=False, raising_only=True):
                return callback(self, record)

        answers, problem = _call_all(functools.partial(tell, callback) for callback in callbacks)
        stoppers = [callback for callback, answer in zip(callbacks, answers, strict=True) if answer is True]
        try:
            if problem is not None:
                raise problem
            self._interrupts.answer()
        except KeyboardInterrupt:
            if not stoppers:  # else training is at its end anyway
                raise
            return stoppers, True
        return stoppers, False

    def _check_idle(self, method):
        if self._interrupts:
            raise RuntimeError(f"this trainer is at work: what it calls must not call its `{method}`")

    def _restore_place(self, batches):
        """Let the next pass over `batches` begin at the place that is next; whether they can do so."""
        placed = restore_place(batches, self._place, self.batch)
        if not placed and keeps_state(batches):
            self._place = None  # other batches, from the first on
        return placed

    def _restore_validation_place(self, validation):
        """Let the next pass over `validation` be the next one, though there were breaks."""
        restore_place(validation, self._validation_place, 0)
        self._validation_place = place_of_next_pass(validation)  # where it begins again after Ctrl-C

    def _restore_callbacks(self, callbacks):
        """Give the states out of a checkpoint to those `callbacks` that they are of."""
        restore_callbacks(callbacks, self._callback_states)
        self._callback_states = []

    def _fit_batch(self, arguments, stateful):
        value, state = self.step(**arguments, state=self._state)
        if not stateful:
            self._state = None
        elif self._on_nonfinite != SKIP or finite.is_finite_state(state):
            self._state = self._buffers.keep_state("carried", state)
        self.batch += 1
        return value

    def evaluate(self, batches: Iterable[Batch]) -> float:
        """The loss over all `batches`, as `fit` takes them, without dropout, as over one: the mean over all valid
        elements or sequences, or the sum. Nothing is changed. ValueError if there are no batches, and `NonFiniteError`
        if so asked."""
        if self._on_nonfinite == RAISE and finite.current() is None:
            return finite.watched(RAISE, self.model, self.evaluate, batches)
        _check_batches("batches", batches)
        # a signal's handler may call this in the middle of an update, or of another evaluation
        buffers = self._buffers if self._before_update is None and not self._evaluating else Buffers()
        total, count, sequences, state = 0.0, 0, 0, None
        before, self._evaluating = self._evaluating, True
        try:
            for batch in batches:
                arguments = {"lengths": None, "mask": None, **_arguments(batch)}
                run = Run(self.model, self.loss, buffers, **arguments, state=state, joint=False)
                run.evaluate()
                total, count, sequences = total + run.total, count + run.count, sequences + run.batch
                state = run.state if _is_stateful(batches) else None
        finally:
            self._evaluating = before
        if count == 0:
            raise ValueError("batches must not be empty")
        return float(total / self.loss.denominator(count, sequences))

    # checkpoints

    def save_checkpoint(self, path: storage.Path, *, extra: dict[str, Any] | None = None) -> None:
        """Write all that resuming needs to one file: parameters, the optimizer's state, counts of updates, epochs and
        batches, the places in batches and validation, the states of the random generators, of the rule and of the
        callbacks of `fit`, the carried state, and `extra`, anything JSON can hold.

        A callback that calls this comes after the others, for the state of those to be that after the same record.
        The file is a `storage.load_tensors(path, "checkpoint")`, whose meta has the model's `architecture` too. An
        existing one is replaced whole, or stays as it was. OSError if it can't be written. Unless `nonfinite` is
        "ignore", parameters that are not finite are a `NonFiniteError`.
        """
        if self._on_nonfinite != IGNORE:
            finite.check_parameters(self.model)
        tensors = {f"model.{name}": array for name, array in self.model.state_dict().items()}
        random, rule = self._before_update or (random_states(self.model), self.bptt.state_dict())
        optimizer = self.optimizer.state_dict()
        arrays = {name: value for name, value in optimizer.items() if isinstance(value, np.ndarray)}
        tensors |= {f"optimizer.{name}": array for name, array in arrays.items()}
        names = (f"state.{i}" for i in itertools.count())
        meta = {
            **{name: getattr(self, name) for name in COUNTS},
            "optimizer": {name: value for name, value in optimizer.items() if name not in arrays},
            "random": [plain(state) for state in random],
            "rule": plain(rule),
            "state": map_state(lambda array: _store(tensors, next(names), array), self._state),
            "architecture": self._architecture(),
            "batches": plain(self._place),
            "validation": plain(self._validation_place),
            "callbacks": stored_callback_states(self._states_of_callbacks(), tensors),
            "extra": extra,
        }
        storage.save_tensors(path, "checkpoint", tensors, meta)
        _log.info("checkpoint after %d updates saved in %s", self.updates, os.fsdecode(path))

    def load_checkpoint(self, path: storage.Path) -> dict[str, Any] | None:
        """Take up the work of the trainer that wrote the checkpoint, with a model, optimizer and rule of the same kind.

        `fit` with the same batches then does what it would have done there, bit for bit. Returns what was saved as
        `extra`. FormatError for a file that is not a checkpoint, is damaged or does not fit, OSError if it can't be
        read, RuntimeError if called by what `fit` or `step` calls; then nothing is changed.
        """
        self._check_idle("load_checkpoint")
        tensors, meta = storage.load_tensors(path, "checkpoint")
        with self._interrupts.held(signal.valid_signals()):
            try:
                extra = self._take_up(tensors, meta)
            except checks.MISFITS as error:
                text = storage.short(f"its {error} is missing" if isinstance(error, KeyError) else str(error))
                raise storage.FormatError(f"{os.fsdecode(path)} does not fit this trainer: {text}") from None
        _log.info("going on after %d updates, from %s", self.updates, os.fsdecode(path))
        return extra

    def _take_up(self, tensors, meta):
        """Take what a checkpoint holds; its `extra`. One of `checks.MISFITS`, and no change, if it does not fit."""
        rule = self.bptt.state_dict()
        # older checkpoints don't have these
        meta = {"nonfinite": 0, "batches": None, "validation": None, "callbacks": [], "rule": rule, **meta}
        check_names(tensors, meta)
        counts = [checks.integer(name, meta[name], minimum=0, maximum=_MOST) for name in COUNTS]
        parameters = self._checked_parameters(tensors, meta)
        random = self._checked_random_states(meta["random"])
        state = self._checked_state(tensors, meta["state"])
        places = [checked_place(name, meta[name]) for name in ("batches", "validation")]
        callbacks = checked_callback_states(tensors, meta["callbacks"], self.model.parameters.values)
        optimizer, extra = self._checked_optimizer_state(tensors, meta["optimizer"]), meta["extra"]
        self.bptt.load_state_dict(meta["rule"])  # changes nothing if it does not fit
        try:
            self.optimizer.load_state_dict(optimizer)  # neither does this
        except BaseException:
            self.bptt.load_state_dict(rule)
            raise
        self.model.load_state_dict(parameters)
        set_random_states(self.model, random)
        self.updates, self.epoch, self.batch, self.nonfinite = counts
        self._state, self._batches, self._validation = state, None, None
        self._place, self._validation_place = places
        self._callback_states, self._callbacks = callbacks, ()
        return extra

    def _states_of_callbacks(self):
        """Class and state of each callback that has one."""
        live = [(type(callback).__name__, callback.state_dict()) for callback in filter(keeps_state, self._callbacks)]
        return [*self._callback_states, *live]

    def _architecture(self):
        try:
            return storage.architecture(self.model)
        except TypeError:  # a layer of the user's own, which a file can't name
            return None

    def _checked_parameters(self, tensors, meta):
        if meta["architecture"] != plain(self._architecture()):
            raise ValueError("it is of a model of another architecture")
        expected = {name: (shape, self.model.dtype) for name, shape in self.model.parameters.shapes.items()}
        found = _with_prefix(tensors, "model.")
        if {name: (array.shape, array.dtype) for name, array in found.items()} != expected:
            raise ValueError("its parameters are those of another model")
        return found

    def _checked_optimizer_state(self, tensors, scalars):
        if not isinstance(scalars, dict):
            raise TypeError(f"the optimizer's state must be a dict, got {type(scalars).__name__}")
        arrays = _with_prefix(tensors, "optimizer.")
        like = self.model.parameters.values
        for name, array in arrays.items():
            if name not in self.optimizer.config() and (array.shape, array.dtype) != (like.shape, like.dtype):
                raise ValueError(f"the optimizer's {name} must be {like.size} numbers of {like.dtype}")
        return {**scalars, **arrays}

    def _checked_state(self, tensors, layout):
        """The carried state: `layout` has names in place of arrays."""
        state = map_state(lambda name: tensors[name], layout)
        arrays = []
        map_state(arrays.append, state)
        if arrays:
            checks.shape("state", arrays[0].shape, (None, None, None))
            self.model._check_state("state", state, arrays[0].shape[1])
        return state

    def _checked_random_states(self, states):
        generators = self.model._generators()
        if not isinstance(states, list) or len(states) != len(generators):
            raise ValueError(f"it must have the states of {len(generators)} random generators")
        for generator, state in zip(generators, states, strict=True):
            check_state(generator.bit_generator, state)
        return states


def _check_batches(name, batches):
    if not isinstance(batches, Iterable) or getattr(batches, "shape", None) == ():  # an array of no dimensions
        raise TypeError(f"{name} must be an iterable of batches, got {type(batches).__name__}")


def _check_fit_arguments(batches, validation, callbacks, rule):
    """The callbacks as a tuple."""
    _check_batches("batches", batches)
    if validation is not None:
        _check_batches("validation", validation)
    callbacks = (callbacks,) if callable(callbacks) else checks.sequence("callbacks", callbacks, "callables")
    for callback in callbacks:
        if isinstance(callback, type):  # it would be made anew of every record
            raise TypeError(f"callbacks must be objects, got the class {callback.__name__}")
        if not callable(callback):
            raise TypeError(f"callbacks must be callable, got {type(callback).__name__}")
    for watcher in (*callbacks, rule):
        if validation is None and getattr(watcher, "needs_validation", False):
            raise ValueError(f"validation must be given for {type(watcher).__name__}, which watches it, got None")
    return callbacks


def _call_all(calls):
    """What each of `calls` returns, whatever others raise, and the first error, None for none; Ctrl-C is one only if
    there is no other."""
    answers, problem = [], None
    for call in calls:
        answer = None
        try:
            answer = call()
        except BaseException as error:
            if problem is None or isinstance(problem, KeyboardInterrupt) and not isinstance(error, KeyboardInterrupt):
                problem = error
        answers.append(answer)
    return answers, problem


def _place_in(batches):
    """Where the next batch is in those that can tell."""
    return batches.state_dict() if keeps_state(batches) else None


def _is_stateful(batches):
    return bool(getattr(batches, "stateful", False))


def _arguments(batch):
    """One batch as keyword arguments of `Trainer.step`."""
    if isinstance(batch, dict):
        if not {"x", "targets"} <= batch.keys() <= set(_BATCH_NAMES):
            raise ValueError(f"a batch must have x and targets, and may have lengths, resets, mask, got {list(batch)}")
        return batch
    if not isinstance(batch, (tuple, list)):
        raise TypeError(f"a batch must be a tuple or a dict, got {type(batch).__name__}")
    if len(batch) not in (2, 3):
        raise ValueError(f"a batch must be (x, targets) or (x, targets, lengths), got {len(batch)} entries")
    return dict(zip(_BATCH_NAMES, batch, strict=False))


def _log_epoch(trainer, losses, validation, bad, seconds):
    """Tell of an epoch that has ended, from its batches' losses and the record of its validation."""
    parts = [f"{trainer.updates} updates, {seconds:.1f} s"]
    if losses:  # those since the last checkpoint, if there was one
        parts.append(f"mean loss {sum(losses) / len(losses):.6g}")
    if validation is not None:
        parts.append(f"validation loss {validation['validation_loss']:.6g}")
    if bad:
        parts.append(f"gradients not finite {bad} times")
    _log.info("epoch %d: %s", trainer.epoch, ", ".join(parts))


def _store(tensors, name, array):
    tensors[name] = array
    return name


def _with_prefix(tensors, prefix):
    return {name[len(prefix) :]: array for name, array in tensors.items() if name.startswith(prefix)}
