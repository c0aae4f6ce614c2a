"""Random training runs, each of which follows from a seed alone: straight through, or with a break and a checkpoint."""

import signal

import numpy as np

import fastrnn
from fastrnn import bptt, data, words
from fastrnn.bptt import random_states

from . import digests

_TOKENS = 11
_COMMON = [(fastrnn.LSTM, "float32"), (fastrnn.GRU, "float32"), (fastrnn.RNN, "float32"), (fastrnn.LSTM, "float64")]
PLACES = "loss", "callback", "callback with a state"  # of Ctrl-C within a batch; the last is not ended by it
_NOISY = "dropout", "recurrent_dropout", "zoneout"  # what draws other masks for single steps than for sequences


class Run:
    """Everything one run needs, drawn from `seed`. wide: all cells and their options, each of which has to be compiled.

    Two runs of one seed are the same in all but their objects.
    """

    def __init__(self, seed, wide):
        self._rng, self._wide = np.random.default_rng(seed), wide
        rng = self._rng
        kind, self.dtype = _COMMON[rng.integers(len(_COMMON))]
        if wide:
            kind, self.dtype = rng.choice(_CELLS), str(rng.choice(["float32", "float64"]))
        self._kind = kind
        self.hidden = int(rng.integers(60, 140) if rng.random() < 0.15 else rng.integers(1, 40))
        self.batch = int(rng.integers(1, 10))
        self.steps = int(rng.integers(2, 25))
        self._noise = []  # of recurrent layers, by name
        self._forward_only = True
        self.batches, self.validation, layers, loss, batch_first = _TASKS[rng.integers(len(_TASKS))](self)
        model = fastrnn.Sequential(*layers, batch_first=batch_first)
        rule = self._rule(model)
        self.trainer = fastrnn.Trainer(
            model, loss, self._optimizer(), bptt=rule, schedule=self._schedule(), seed=int(rng.integers(100)),
            clip_norm=float(rng.uniform(0.1, 2)) if rng.random() < 0.5 else None,
            clip_value=float(rng.uniform(0.01, 0.5)) if rng.random() < 0.3 else None,
            nonfinite=str(rng.choice(["ignore", "skip", "raise"])),
        )  # fmt: skip
        self.epochs = int(rng.integers(2, 5))
        self.callbacks = []
        if self.validation is None and getattr(rule, "needs_validation", False):
            self.validation = self.batches
        if self.validation is not None and rng.random() < 0.7:
            self.callbacks = [
                fastrnn.ReduceOnPlateau(0.5, int(rng.integers(2)), cooldown=int(rng.integers(2))),
                fastrnn.EarlyStopping(int(rng.integers(1, 3)), restore_best=bool(rng.random() < 0.8)),
            ]
        self.text = f"{model!r}, {loss!r}, {self.trainer.optimizer!r}, {rule!r}, {self.batches!r}"

    # what is drawn

    def maybe(self, probability, value, otherwise=None):
        """`value` with this probability."""
        return value if self._rng.random() < probability else otherwise

    def integers(self, low, high, size=None):
        """One integer or an array of them, `high` excluded."""
        drawn = self._rng.integers(low, high, size)
        return int(drawn) if size is None else drawn

    def reals(self, *shape):
        """Random numbers in the run's dtype."""
        return self._rng.standard_normal(shape).astype(self.dtype)

    def recurrent(self, inputs, hidden=None):
        """A recurrent layer with random options."""
        rng, kind, hidden = self._rng, self._kind, self.hidden if hidden is None else hidden
        options = {"num_layers": int(rng.integers(1, 3)), "dtype": self.dtype, "seed": int(rng.integers(1000))}
        options["dropout"] = self.maybe(0.3, 0.25, 0.0)
        options["initial_state"] = self.maybe(0.3, fastrnn.NoisyState(0.1), self.maybe(0.3, "learned", "zeros"))
        if self.maybe(0.25, True):
            options["bidirectional"], self._forward_only = True, False
        elif self.maybe(0.15, True):
            options["dilation"], self._noise = 2, [*self._noise, "dilation"]
        if self._wide:
            if kind is fastrnn.Jordan:
                return kind(inputs, hidden, hidden, dtype=self.dtype, seed=options["seed"]), hidden
            options["variational"] = self.maybe(0.2, True, False)
            if kind in (fastrnn.LSTM, fastrnn.GRU):
                options["recurrent_dropout"] = self.maybe(0.2, 0.2, 0.0)
            if kind in (fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN):
                options["zoneout"] = self.maybe(0.2, 0.1, 0.0)
            if kind is fastrnn.GRU:
                options["reset_after"] = self.maybe(0.7, True, False)
        self._noise += [name for name in _NOISY if options.get(name)]
        if options.get("variational"):
            self._forward_only = False  # its masks are for whole sequences
        return kind(inputs, hidden, **options), hidden * (2 if options.get("bidirectional") else 1)

    def head(self, width, outputs):
        """Layers from the recurrent one to the output."""
        layers = []
        if self.maybe(0.3, True):
            layers.append(fastrnn.Residual(fastrnn.Linear(width, width, dtype=self.dtype, seed=3)))
            layers.append(fastrnn.Tanh(dtype=self.dtype))
        if self.maybe(0.3, True):
            shared, rates = np.random.default_rng(4), self.maybe(0.5, [0.2], [0.1, 0.2])
            layers += [fastrnn.Dropout(rate, dtype=self.dtype, seed=shared) for rate in rates]
        return [*layers, fastrnn.Linear(width, outputs, dtype=self.dtype, seed=5)]

    def _rule(self, model):
        rng, rule = self._rng, bptt.Full()
        k = int(rng.integers(1, self.steps + 2))
        choices = [lambda: rule]
        if self._forward_only and model.keeps_steps:
            choices += [
                lambda: bptt.Truncated(k), bptt.Online, bptt.Checkpointed, lambda: bptt.Checkpointed(k),
                lambda: bptt.Growing(1, 8, every=k), lambda: bptt.Growing(2, every="plateau"),
            ]  # fmt: skip
            if "dilation" not in self._noise:
                choices.append(lambda: bptt.Randomized(0.3, seed=k))
            if not self._noise and not any(isinstance(layer, fastrnn.Jordan) for layer in model.layers):
                choices += [lambda: bptt.Windowed(k), lambda: bptt.Windowed(k + 1, 2)]
            if self.feeds_back:
                choices += [
                    lambda: bptt.Feedback(0.5, seed=k), lambda: bptt.Feedback(bptt.LinearDecay(9), sample="sample"),
                ]  # fmt: skip
        return choices[rng.integers(len(choices))]()

    feeds_back = False  # whether outputs can be the next inputs

    def _optimizer(self):
        lr = float(self._rng.uniform(1e-3, 5e-2))
        decay = self.maybe(0.3, 0.01, 0.0)
        choices = [
            lambda: fastrnn.SGD(lr, weight_decay=decay), lambda: fastrnn.SGD(lr, momentum=0.9, nesterov=True),
            lambda: fastrnn.RMSprop(lr, momentum=0.5, centered=True), lambda: fastrnn.RMSprop(lr, weight_decay=decay),
            lambda: fastrnn.Adagrad(lr, lr_decay=0.01), lambda: fastrnn.Adam(lr, amsgrad=True),
            lambda: fastrnn.Adam(lr, weight_decay=decay), lambda: fastrnn.AdamW(lr),
        ]  # fmt: skip
        return choices[self._rng.integers(len(choices))]()

    def _schedule(self):
        choices = [
            lambda: None, lambda: fastrnn.Cosine(20, 0.1), lambda: fastrnn.OneCycle(30), lambda: fastrnn.StepDecay(3),
            lambda: fastrnn.Exponential(0.95), lambda: fastrnn.WarmUp(4, fastrnn.Exponential(0.9)),
        ]  # fmt: skip
        return choices[self._rng.integers(len(choices))]()

    # what is done

    def train(self, *, stop=None, save=None, resume=None, inside=None):
        """Train from the checkpoint `resume`, if any, or from where it was stopped, to the end or until `stop` records
        are there, for the checkpoint `save`; `outcome` of it, or without a checkpoint the records alone.

        inside: one of `PLACES`: stopped by Ctrl-C there, in the batch, or the validation, after those records.
        """
        if resume is not None:
            self.trainer.load_checkpoint(resume)
        callbacks, records = list(self.callbacks), []
        if stop is not None:
            evaluate = self.trainer.loss.evaluate

            def stopper(trainer, record):
                records.append(record)
                if len(records) < stop or inside:
                    return False
                if save is not None:  # before callbacks finish, which may put back older parameters
                    trainer.save_checkpoint(save)
                return True

            def interrupted(*arguments):
                if inside == "loss" and len(records) == stop:
                    raise KeyboardInterrupt
                return evaluate(*arguments)

            callbacks.append(stopper)
            if inside in PLACES[1:]:
                kind = _Interrupting if inside == "callback" else _InterruptingWithState
                callbacks.insert(0, kind(records, stop))
            self.trainer.loss.evaluate = interrupted
        history = self.trainer.fit(
            self.batches, epochs=self.epochs - self.trainer.epoch, validation=self.validation, callbacks=callbacks,
            progress=False,
        )  # fmt: skip
        if stop is not None:
            del self.trainer.loss.evaluate
            if save is None:
                return {"records": _without_times(history)}
            if inside:
                self.trainer.save_checkpoint(save)
        return self.outcome(history)

    def outcome(self, history):
        """All that training has come to, in a form for JSON: digests by name, and the records without times."""
        trainer, model = self.trainer, self.trainer.model
        x = next(iter(self.batches))  # which may begin a pass: in every run alike
        x = x["x"] if isinstance(x, dict) else x[0]
        y, state = model.forward(x)
        values = {
            "parameters": model.parameters_to_vector(),
            "gradients": model.gradients_to_vector(),
            "optimizer": trainer.optimizer.state_dict(),
            "generators": random_states(model),
            "rule": trainer.bptt.state_dict(),
            "counts": [trainer.updates, trainer.epoch, trainer.batch, trainer.nonfinite],
            "carried state": trainer._state,
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "inference": [y, state],
            "evaluation": trainer.evaluate([next(iter(self.batches))]),
        }
        found = {name: digests.of_arrays(value) for name, value in values.items()}
        return {"digests": found, "records": _without_times(history)}


class _Interrupting:
    """A callback in which Ctrl-C comes when there are `stop` of the `records`."""

    def __init__(self, records, stop):
        self._records, self._stop = records, stop
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore

    def __call__(self, trainer, record):
        if len(self._records) == self._stop:
            signal.raise_signal(signal.SIGINT)


class _InterruptingWithState(_Interrupting):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def _without_times(history):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in history]


# ---- tasks: batches, validation, layers, loss, batch_first ----


def _language(run):
    """Tokens as a stream, with a state that is carried on."""
    run.feeds_back = True
    lane = run.integers(2, 5) * run.steps + run.integers(0, run.steps)
    tokens = run.integers(0, _TOKENS, run.batch * lane + 1)
    stream = data.TokenStream(tokens, run.batch, run.steps)
    first, width = _embedding(run)
    recurrent, out = run.recurrent(width)
    loss = fastrnn.CrossEntropy(label_smoothing=run.maybe(0.3, 0.1, 0.0), reduction=run.maybe(0.8, "mean", "sum"))
    return stream, run.maybe(0.5, stream), [*first, recurrent, *run.head(out, _TOKENS)], loss, False


def _embedding(run):
    if run.maybe(0.2, True):
        return [fastrnn.OneHot(_TOKENS, dtype=run.dtype)], _TOKENS
    width = run.integers(1, 20)
    return [fastrnn.Embedding(_TOKENS, width, dtype=run.dtype, seed=1)], width


def _sentences(run):
    """Sentences in shuffled batches, side by side with others of about their length."""
    found = [run.integers(3, _TOKENS, n) for n in run.integers(2, run.steps + 2, run.integers(2, 40))]
    batches = words.SentenceBatches(found, run.batch, seed=run.integers(0, 9))
    first, width = _embedding(run)
    recurrent, out = run.recurrent(width)
    loss = fastrnn.CrossEntropy(reduction=str(run.maybe(0.6, "mean", "sequence")))
    return batches, run.maybe(0.5, batches), [*first, recurrent, *run.head(out, _TOKENS)], loss, False


def _windows(run):
    """Windows of a series drawn at random, one vector made of each."""
    features = run.integers(1, 4)
    series = run.reals(run.steps + run.integers(5, 60), features)
    batch_first = run.maybe(0.4, True, False)
    quantiles = run.maybe(0.3, (0.1, 0.5, 0.9))
    batches = data.WindowBatches(
        series, run.steps, batch_size=3 * run.batch, shuffle=run.maybe(0.85, True, False), batch_first=batch_first,
        seed=run.integers(0, 9),
    )  # fmt: skip
    recurrent, out = run.recurrent(features)
    pooling = [fastrnn.Last, fastrnn.MeanPool, fastrnn.MaxPool][run.integers(0, 3)]
    layers = [recurrent, pooling(dtype=run.dtype), *run.head(out, features * (len(quantiles) if quantiles else 1))]
    loss = fastrnn.Quantile(quantiles) if quantiles else _regression_loss(run)
    validation = data.WindowBatches(
        series, run.steps, batch_size=2 * run.batch, shuffle=True, batch_first=batch_first, seed=run.integers(0, 9)
    )
    return batches, run.maybe(0.7, run.maybe(0.5, batches, validation)), layers, loss, batch_first


def _regression_loss(run, **options):
    return [fastrnn.MSE, fastrnn.MAE, fastrnn.Huber][run.integers(0, 3)](**options)


def _series(run):
    """A series as a stream, each step to be foretold from those before."""
    run.feeds_back = True
    features = run.integers(1, 5)
    lane = run.integers(2, 4) * run.steps + run.integers(0, run.steps)
    series = run.reals(run.batch * lane + 1, features)
    stream = data.SeriesStream(series, run.batch, run.steps)
    recurrent, out = run.recurrent(features)
    penalty = [fastrnn.ActivityRegularization(0.01, 0.01, dtype=run.dtype)] if run.maybe(0.2, True) else []
    run.feeds_back = not penalty
    if penalty:
        run._noise = [*run._noise, "penalty"]
    return stream, run.maybe(0.5, stream), [recurrent, *penalty, *run.head(out, features)], _regression_loss(run), False


def _ragged(run):
    """A list of batches of different shapes with lengths, resets and masks."""
    features, classes = run.integers(1, 6), run.integers(2, 5)
    batch_first = run.maybe(0.4, True, False)
    batches = []
    for _ in range(run.integers(2, 6)):
        lead = steps, batch = run.integers(2, run.steps + 1), run.integers(1, run.batch + 1)
        lead = lead[::-1] if batch_first else lead
        entries = {"x": run.reals(*lead, features), "targets": run.integers(0, classes, lead)}
        if run.maybe(0.7, True):
            entries["lengths"] = run.integers(1, steps + 1, batch)
        if run.maybe(0.3, True):
            entries["resets"] = run.reals(*lead) > 1
        if run.maybe(0.3, True):
            mask = run.reals(*lead) > -1
            mask[0, 0] = True  # the first step of the first sequence: valid whatever the lengths
            entries["mask"] = mask
        batches.append(entries)
    recurrent, out = run.recurrent(features)
    if batch_first:
        run._noise = [*run._noise, "batch first"]
    loss = fastrnn.CrossEntropy(reduction=str(run.maybe(0.6, "mean", "sequence")), batch_first=batch_first)
    return batches, run.maybe(0.5, batches[:2]), [recurrent, *run.head(out, classes)], loss, batch_first


_TASKS = _language, _sentences, _windows, _series, _ragged
_CELLS = [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN, fastrnn.PeepholeLSTM, fastrnn.LayerNormLSTM, fastrnn.Jordan]
