"""Right calls of losses, optimizers, schedules, callbacks, the trainer and the rules of backpropagation."""

import functools
import os
import tempfile

import numpy as np

import fastrnn as fr

from .arguments import Argument
from .catalogue_layers import COUNT, SEED, Sample, floats
from .judge import Call, Entry, setting

POSITIVE = Argument(minimum=0)
_FACTOR = Argument(minimum=0, maximum=1)
FOLDER = tempfile.TemporaryDirectory()  # of files that the calls write and read


def _loss(kind, rng):
    """A loss with a prediction and targets for it."""
    steps, batch, width = (int(n) for n in rng.integers(1, 5, 3))
    if kind == "CrossEntropy":
        return fr.CrossEntropy(), floats(rng, steps, batch, width), rng.integers(0, width, (steps, batch))
    if kind == "Quantile":
        return fr.Quantile((0.25, 0.5)), floats(rng, steps, batch, 2 * width), floats(rng, steps, batch, width)
    y, targets = floats(rng, steps, batch, width), floats(rng, steps, batch, width)
    if kind == "BinaryCrossEntropy":
        targets = (targets > 0).astype("float32")
    return getattr(fr, kind)(), y, targets


def _loss_call(kind, method, **more):
    def make(rng):
        loss, y, targets = _loss(kind, rng)
        arguments = {"y": y, "targets": targets, **{name: value(y) for name, value in more.items()}}
        if rng.random() < 0.5:
            arguments["mask"] = np.ones(y.shape[:2], bool)
            arguments["mask"].flat[1:] = rng.random(y.shape[0] * y.shape[1] - 1) < 0.7
        if method != "count" and rng.random() < 0.3:
            arguments["out"] = np.zeros_like(y)
        return Call(getattr(loss, method), arguments, (loss,))

    return make


_LOSSES = {
    "MSE": {}, "MAE": {}, "Huber": {"delta": 0.5}, "BinaryCrossEntropy": {}, "Quantile": {"quantiles": (0.25, 0.5)},
    "CrossEntropy": {"ignore_index": -1, "label_smoothing": 0.25},
}  # fmt: skip


def _losses():
    for kind, options in _LOSSES.items():
        name = f"fastrnn.{kind}"
        common = {**options, "reduction": "sum", "batch_first": True}
        new = {"delta": POSITIVE, "label_smoothing": _FACTOR, "quantiles": Argument(words=("quantiles",))}
        yield Entry(name, lambda rng, kind=kind, common=common: Call(getattr(fr, kind), dict(common)), new)
        targets = Argument("mask" if kind == "BinaryCrossEntropy" else "", fixed=True, words=("mask",))
        known = {
            "targets": targets, "y": Argument(words=("targets", "mask", "out")), "denominator": Argument(minimum=0),
            "mask": Argument(words=("valid",)),
        }  # fmt: skip
        yield Entry(f"{name}.__call__", _loss_call(kind, "__call__"), known)
        yield Entry(f"{name}.evaluate", _loss_call(kind, "evaluate", denominator=lambda y: 2.0), known)
        yield Entry(f"{name}.count", _loss_call(kind, "count"), known)
        yield Entry(f"{name}.config", lambda rng, kind=kind: Call(_loss(kind, rng)[0].config, {}))
        yield Entry(
            f"{name}.denominator",
            lambda rng, kind=kind: Call(_loss(kind, rng)[0].denominator, {"count": 2.0, "sequences": 3}),
            {"count": Argument("other"), "sequences": Argument("other", none=True)},
        )


_OPTIMIZERS = {
    "SGD": {"momentum": 0.5, "dampening": 0.0, "weight_decay": 0.25, "nesterov": True},
    "RMSprop": {"alpha": 0.5, "eps": 0.5, "weight_decay": 0.25, "momentum": 0.5, "centered": True},
    "Adagrad": {"lr_decay": 0.5, "weight_decay": 0.25, "initial_accumulator_value": 0.5, "eps": 0.5},
    "Adam": {"betas": (0.5, 0.25), "eps": 0.5, "weight_decay": 0.25, "amsgrad": True},
    "AdamW": {"betas": (0.5, 0.25), "eps": 0.5, "weight_decay": 0.25, "amsgrad": True},
}


def _trained(kind):
    """An optimizer that has served a model with gradients."""
    model = fr.Linear(3, 2, seed=1)
    workspace = model.workspace(2, 2)
    y, _ = model.forward(np.ones((2, 2, 3), "float32"), workspace=workspace)
    model.backward(np.ones_like(y), workspace=workspace)
    optimizer = getattr(fr, kind)(0.5, **_OPTIMIZERS[kind])
    optimizer.step(model)
    return optimizer, model


def _optimizers():
    for kind, options in _OPTIMIZERS.items():
        name = f"fastrnn.{kind}"
        known = {option: POSITIVE for option in options if option not in ("dampening", "betas", "nesterov", "amsgrad")}
        known["alpha"] = _FACTOR
        known |= {"betas": Argument(words=("betas",)), "lr": POSITIVE}
        nesterov = {option: known.get(option, Argument())._replace(words=("nesterov",)) for option in
                    ("momentum", "dampening")}  # fmt: skip
        known |= nesterov if kind == "SGD" else {}
        yield Entry(name, lambda rng, k=kind, o=options: Call(getattr(fr, k), {"lr": 0.5, **o}), known)

        def step(rng, kind=kind):
            optimizer, model = _trained(kind)
            return Call(optimizer.step, {"model": model, "factor": 0.5}, (optimizer, model))

        def load(rng, kind=kind):
            optimizer, model = _trained(kind)
            return Call(optimizer.load_state_dict, {"state": optimizer.state_dict()}, (optimizer, model))

        yield Entry(f"{name}.lr", lambda rng, kind=kind: setting(_trained(kind)[0], "lr", 0.25), known)
        yield Entry(f"{name}.step", step, {"factor": POSITIVE})
        yield Entry(f"{name}.load_state_dict", load, {"state": Argument("other", words=("state_dict", "optimizer"))})
        for method in ("config", "state_dict"):
            yield Entry(f"{name}.{method}", lambda rng, k=kind, m=method: Call(getattr(_trained(k)[0], m), {}))


_SCHEDULES = {
    "fastrnn.Constant": {"factor": 0.5},
    "fastrnn.StepDecay": {"step_size": 3, "gamma": 0.5},
    "fastrnn.Exponential": {"gamma": 0.5},
    "fastrnn.Cosine": {"total_steps": 5, "final": 0.25},
    "fastrnn.OneCycle": {"total_steps": 9, "pct_start": 0.25, "div_factor": 4.0, "final_div_factor": 8.0},
    "fastrnn.WarmUp": {"steps": 3, "after": fr.Exponential(0.5)},
    "fastrnn.bptt.LinearDecay": {"updates": 4, "start": 1.0, "stop": 0.5},
    "fastrnn.bptt.InverseSigmoidDecay": {"k": 8.0},
}


def _schedules():
    known = {name: POSITIVE for name in ("factor", "gamma", "final", "pct_start", "div_factor", "final_div_factor")}
    known |= {name: COUNT for name in ("step_size", "total_steps", "steps", "updates")}
    known |= {"after": Argument(none=True), "start": _FACTOR, "stop": _FACTOR, "k": POSITIVE}
    for name, options in _SCHEDULES.items():
        kind = getattr(fr.bptt if ".bptt." in name else fr, name.rpartition(".")[2])
        yield Entry(name, lambda rng, k=kind, o=options: Call(k, dict(o)), known)
        yield Entry(
            f"{name}.__call__", lambda rng, k=kind, o=options: Call(k(**o), {"step": int(rng.integers(9))}),
            {"step": Argument(minimum=0)},
        )  # fmt: skip
        yield Entry(f"{name}.config", lambda rng, k=kind, o=options: Call(k(**o).config, {}))


def trainer(rng=None):
    """A trainer with a batch."""
    rng = np.random.default_rng(0) if rng is None else rng
    model = fr.Sequential(fr.LSTM(3, 4, seed=1), fr.Linear(4, 2, seed=2))
    made = fr.Trainer(model, fr.MSE(), fr.Adam(0.01), clip_norm=1.0)
    return made, {"x": floats(rng, 4, 3, 3), "targets": floats(rng, 4, 3, 2)}


def _trainer_calls():
    def new(rng):
        made, _ = trainer(rng)
        arguments = {
            "model": made.model, "loss": fr.MSE(), "optimizer": fr.SGD(0.5), "bptt": fr.bptt.Truncated(2),
            "clip_norm": 1.0, "clip_value": 2.0, "nonfinite": "skip", "schedule": fr.Constant(0.5), "seed": 3,
        }  # fmt: skip
        return Call(fr.Trainer, arguments, (made.model,))

    def step(rng):
        made, batch = trainer(rng)
        sample = Sample(rng, "Last")
        state = ((floats(rng, 1, 3, 4), floats(rng, 1, 3, 4)), None)
        batch |= sample.some(
            state=state, lengths=rng.integers(1, 5, 3), mask=np.ones((4, 3), bool), resets=rng.random((4, 3)) < 0.3
        )
        return Call(made.step, batch, (made,))

    def fit(rng):
        made, batch = trainer(rng)
        arguments = {
            "batches": [batch], "epochs": 2, "validation": [batch], "callbacks": (fr.EarlyStopping(3),),
            "progress": False,
        }  # fmt: skip
        return Call(made.fit, arguments, (made,))

    def evaluate(rng):
        made, batch = trainer(rng)
        return Call(made.evaluate, {"batches": [batch]}, (made,))

    def checkpoint(rng):
        made, batch = trainer(rng)
        made.step(**batch)
        path = os.path.join(FOLDER.name, "checkpoint")
        made.save_checkpoint(path, extra={"a": 1})
        return made, path

    def save(rng):
        made, path = checkpoint(rng)
        return Call(made.save_checkpoint, {"path": path, "extra": {"a": 1}}, (made,))

    def load(rng):
        made, path = checkpoint(rng)
        return Call(made.load_checkpoint, {"path": path}, (made,))

    def optimizer(rng):
        made, batch = trainer(rng)
        made.step(**batch)
        return setting(made, "optimizer", fr.Adam(0.5))

    name = "fastrnn.Trainer"
    yield Entry(f"{name}.optimizer", optimizer)
    known = {"clip_norm": POSITIVE, "clip_value": POSITIVE, "seed": Argument(minimum=0, none=True)}
    yield Entry(name, new, {**known, "loss": Argument(), "nonfinite": Argument()})
    known = {
        "lengths": Argument(minimum=1, maximum=4, fixed=True), "resets": Argument(fixed=True),
        "targets": Argument(fixed=True, words=("mask", "lengths")),
        "x": Argument(words=("lengths", "targets", "state", "mask", "resets")),
        "mask": Argument(words=("valid",)),
    }  # fmt: skip
    yield Entry(f"{name}.step", step, known)
    batches = Argument(words=("batch", "epoch", "iteration", "x must", "targets must"))
    known = {
        "epochs": Argument(minimum=1, huge="untried"), "batches": batches,
        "validation": Argument(none=True, late=True, words=("batch", "x must", "targets must")),
        "callbacks": Argument(words=("callback",)),
    }  # fmt: skip
    yield Entry(f"{name}.fit", fit, known)
    yield Entry(f"{name}.evaluate", evaluate, {"batches": batches})
    path = Argument("other", words=("path", "file", "directory", "null", "PathLike", "encode", "checkpoint"))
    yield Entry(f"{name}.save_checkpoint", save, {"path": path, "extra": Argument(words=("JSON",))})
    yield Entry(f"{name}.load_checkpoint", load, {"path": path})


def _callbacks():
    def new_stopping(rng):
        return Call(fr.EarlyStopping, {"patience": 3, "min_delta": 0.5, "restore_best": True})

    plateau = {
        "factor": 0.5, "patience": 3, "min_lr": 0.25, "threshold": 0.5, "threshold_mode": "abs", "cooldown": 2,
        "eps": 0.5,
    }  # fmt: skip
    known = {name: POSITIVE for name in plateau}
    known |= {"threshold_mode": Argument(), "min_delta": POSITIVE}
    yield Entry("fastrnn.EarlyStopping", new_stopping, {**known, "patience": COUNT})
    yield Entry("fastrnn.ReduceOnPlateau", lambda rng: Call(fr.ReduceOnPlateau, dict(plateau)), known)

    def used(kind):
        callback = kind(patience=2)
        made, _ = trainer()
        callback(made, {"validation_loss": 1.0})
        return callback, made

    def called(kind):
        def make(rng):
            callback, made = used(kind)
            arguments = {"trainer": made, "record": {"step": 1, "validation_loss": 0.5}}
            return Call(callback, arguments, (callback, made))

        return make

    def loaded(kind):
        def make(rng):
            callback, _ = used(kind)
            return Call(callback.load_state_dict, {"state": callback.state_dict()}, (callback,))

        return make

    def restored(rng):
        callback, made = used(fr.EarlyStopping)
        return Call(callback.restore, {"model": made.model}, (callback, made))

    def finished(rng):
        callback, made = used(fr.EarlyStopping)
        return Call(callback.finish, {"trainer": made}, (callback, made))

    record = {"record": Argument(words=("validation_loss",)), "trainer": Argument()}
    state = {"state": Argument("other", words=("state_dict",))}
    for kind in (fr.EarlyStopping, fr.ReduceOnPlateau):
        name = f"fastrnn.{kind.__name__}"
        yield Entry(f"{name}.__call__", called(kind), record)
        yield Entry(f"{name}.load_state_dict", loaded(kind), state)
        yield Entry(f"{name}.state_dict", lambda rng, kind=kind: Call(used(kind)[0].state_dict, {}))
    yield Entry("fastrnn.EarlyStopping.restore", restored, {"model": Argument("model")})
    yield Entry("fastrnn.EarlyStopping.finish", finished)


_RULES = {
    "Full": {}, "Truncated": {"k": 2}, "Online": {}, "Windowed": {"k2": 3, "k1": 2},
    "Randomized": {"p": 0.5, "seed": 3}, "Checkpointed": {"segments": 2},
    "Growing": {"start": 1, "stop": 4, "factor": 2.0, "every": 2},
    "Feedback": {"teacher": 0.5, "sample": "argmax", "seed": 3},
}  # fmt: skip


def _rules():
    known = {"k": COUNT, "k2": Argument(minimum=2), "k1": Argument(minimum=1, words=("k2",)), "p": _FACTOR}
    known |= {"seed": SEED, "segments": COUNT, "start": Argument(minimum=1, maximum=4, words=("stop",)), "stop": COUNT,
              "every": COUNT, "factor": Argument(minimum=1), "teacher": _FACTOR}  # fmt: skip
    for kind, options in _RULES.items():
        name = f"fastrnn.bptt.{kind}"
        rule_class = getattr(fr.bptt, kind)
        yield Entry(name, lambda rng, k=rule_class, o=options: Call(k, dict(o)), known)

        def sample(rng, rule_class=rule_class, options=options):
            model = fr.Sequential(fr.GRU(3, 4, seed=1), fr.Linear(4, 3, seed=2))
            batch = {"x": floats(rng, 4, 3, 3), "targets": floats(rng, 4, 3, 3)}
            return rule_class(**options), model, batch

        def check(rng, sample=sample):
            rule, model, _ = sample(rng)
            return Call(rule.check, {"model": model}, (rule, model))

        def gradients(rng, sample=sample):
            rule, model, batch = sample(rng)
            some = {"state": (floats(rng, 1, 3, 4), None), "lengths": rng.integers(1, 5, 3)}
            some |= {"resets": rng.random((4, 3)) < 0.3, "mask": np.ones((4, 3), bool)}
            batch |= {name: value for name, value in some.items() if rng.random() < 0.5}
            return Call(rule.gradients, {"model": model, "loss": fr.MSE(), **batch}, (rule, model))

        def observe(rng, sample=sample):
            rule, _, _ = sample(rng)
            return Call(rule.observe, {"validation_loss": 0.5}, (rule,))

        def load(rng, sample=sample):
            rule, _, _ = sample(rng)
            return Call(rule.load_state_dict, {"state": rule.state_dict()}, (rule,))

        def updates(rng, sample=sample):
            rule, model, batch = sample(rng)
            run = _run(model, batch)
            return Call(rule.updates, {"run": run}, (rule,), lambda made: [update() for update in made])

        yield Entry(f"{name}.check", check)
        rows = {"lengths": Argument(minimum=1, maximum=4, fixed=True), "resets": Argument(fixed=True)}
        rows |= {"targets": Argument(fixed=True, words=("mask", "lengths")), "mask": Argument(words=("valid",))}
        rows |= {"x": Argument(words=("lengths", "targets", "state", "mask", "resets", "a model's own"))}
        yield Entry(f"{name}.gradients", gradients, rows)
        yield Entry(f"{name}.observe", observe, {"validation_loss": Argument("other")})
        yield Entry(f"{name}.load_state_dict", load, {"state": Argument("other", words=("state",))})
        yield Entry(f"{name}.state_dict", lambda rng, sample=sample: Call(sample(rng)[0].state_dict, {}))
        yield Entry(f"{name}.updates", updates, tool=True)


def _run(model, batch):
    return fr.bptt.Run(
        model, fr.MSE(), fr.bptt.Buffers(), batch["x"], batch["targets"], None, None, None, joint=True
    )  # fmt: skip


def _rule_tools():
    """What those who write a rule of their own are given."""

    def sample(rng):
        model = fr.Sequential(fr.GRU(3, 4, seed=1), fr.Linear(4, 3, seed=2))
        return model, {"x": floats(rng, 4, 3, 3), "targets": floats(rng, 4, 3, 3)}

    def horizons(rng):
        model, batch = sample(rng)
        return Call(fr.bptt.Windowed(3).horizons, {"run": _run(model, batch), "stops": (1, 3)}, (), list)

    def new_run(rng):
        model, batch = sample(rng)
        batch |= {"state": None, "lengths": None, "mask": None, "resets": None, "joint": True}
        return Call(fr.bptt.Run, {"model": model, "loss": fr.MSE(), "buffers": fr.bptt.Buffers(), **batch}, (model,))

    def of_run(method, **arguments):
        def make(rng):
            run = _run(*sample(rng))
            return Call(getattr(run, method), dict(arguments), (run.model,))

        return make

    def run_backward(rng):
        run = _run(*sample(rng))
        arguments = {"segment": run.forward(0, 4), "dstate": (floats(rng, 1, 3, 4), None), "carry_factor": 0.5}
        return Call(run.backward, arguments, (run.model,))

    name = "fastrnn.bptt"
    loose = {"names": False, "tool": True}
    steps = {option: Argument("other") for option in ("start", "stop", "carry_factor")}
    yield Entry(f"{name}.Windowed.horizons", horizons, **loose)
    yield Entry(f"{name}.Run", new_run, dict.fromkeys(("lengths", "mask", "joint"), Argument("other")), **loose)
    yield Entry(f"{name}.Run.forward", of_run("forward", start=0, stop=3), steps, **loose)
    yield Entry(f"{name}.Run.segment", of_run("segment", start=0, stop=3, carry_factor=0.5), steps, **loose)
    yield Entry(f"{name}.Run.evaluate", of_run("evaluate", training=True), {"training": Argument("other")}, **loose)
    yield Entry(f"{name}.Run.backward", run_backward, {"carry_factor": Argument("other")}, **loose)

    buffers, loose_array = fr.bptt.Buffers, {"shape": Argument("other"), "dtype": Argument("other")}
    yield Entry(f"{name}.Buffers", lambda rng: Call(buffers, {}))
    yield Entry(
        f"{name}.Buffers.array",
        lambda rng: Call(
            buffers().array, {"name": "a", "shape": (2, 3), "dtype": "float32"}, (), lambda made: made.shape
        ),
        {"name": Argument("other"), **loose_array}, **loose,
    )  # fmt: skip
    yield Entry(
        f"{name}.Buffers.keep_state",
        lambda rng: Call(buffers().keep_state, {"name": "a", "state": floats(rng, 1, 3, 4)}),
        {"name": Argument("other"), "state": Argument("floats", none=True)}, **loose,
    )  # fmt: skip

    def workspace(rng):
        model, _ = sample(rng)
        return Call(buffers().workspace, {"model": model, "steps": 3, "batch": 2, "name": "a"}, (model,))

    sizes = {"steps": Argument(minimum=1), "batch": Argument(minimum=1), "name": Argument("other")}
    yield Entry(f"{name}.Buffers.workspace", workspace, sizes, **loose)

    yield Entry(f"{name}.check_loss", lambda rng: Call(fr.bptt.check_loss, {"loss": fr.MSE()}))
    yield Entry(f"{name}.layers_of", lambda rng: Call(fr.bptt.layers_of, {"model": sample(rng)[0]}), **loose)
    yield Entry(
        f"{name}.map_state",
        lambda rng: Call(fr.bptt.map_state, {"function": np.negative, "state": (floats(rng, 1, 3, 4), None)}),
        {"state": Argument("other")}, **loose,
    )  # fmt: skip

    def dropped():
        return fr.Dropout(0.5, seed=1)

    yield Entry(f"{name}.random_states", lambda rng: Call(fr.bptt.random_states, {"model": dropped()}), **loose)

    def set_states(rng):
        model = dropped()
        setter = functools.partial(fr.bptt.set_random_states, model)  # of which it asks no more than `random_states`
        return Call(setter, {"states": fr.bptt.random_states(model)}, (model,))

    yield Entry(f"{name}.set_random_states", set_states, {"states": Argument("other", words=("state",))}, names=False)


def entries():
    """All of them."""
    for part in (_losses, _optimizers, _schedules, _trainer_calls, _callbacks, _rules, _rule_tools):
        yield from part()
