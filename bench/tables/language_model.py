"""The whole training step of the byte-level language model against the same in PyTorch."""

import contextlib
import time

import numpy as np

from .. import child, peers
from ..checks import Void, difference
from ..report import Verdict, busy_note, gain, geometric_mean, ratio, share, table
from ..timing import Stopwatch, alternate, cpus_used, progress, ratios_to
from . import THREADS

TITLE = "Training step of the byte-level language model"
STEPS, BATCH, EMBEDDING = 64, 32, 64
HIDDEN = (128, 256, 512)
_LR, _MAX_NORM = 1e-3, 1.0
_TOLERANCE = 1e-4
ADAMS = {"torch": None, "torch, fused Adam": True}
_UPDATES = 5  # after which the losses are compared
_MOST_OF_A_PART = 0.10


def batch():
    """Tokens and targets, (T,B) integers."""
    return np.random.default_rng(0).integers(0, 256, (2, STEPS, BATCH))


class Own:
    """fastrnn's `Trainer`, as `fastrnn train` uses it."""

    def __init__(self, hidden, threads):
        import fastrnn
        from fastrnn import language_model

        fastrnn.set_num_threads(threads)
        self.model = language_model.build("lstm", embedding=EMBEDDING, hidden=hidden)
        optimizer = fastrnn.Adam(lr=_LR)
        self.trainer = fastrnn.Trainer(self.model, fastrnn.CrossEntropy(), optimizer, clip_norm=_MAX_NORM)
        self.x, self.targets = batch()

    def step(self):
        return self.trainer.step(self.x, self.targets)[0]

    def gradients(self):
        return self.model.grad_dict()


class Torch:
    """`fused`: Adam's own kernel, or else its default."""

    def __init__(self, weights, threads, fused):
        import torch
        from torch import nn

        torch.set_num_threads(threads)
        vocabulary, embedding = weights["0.weight"].shape
        hidden = weights["1.weight_hh_l0"].shape[1]
        self.layers = nn.ModuleList(
            [nn.Embedding(vocabulary, embedding), nn.LSTM(embedding, hidden), nn.Linear(hidden, vocabulary)]
        )
        self.layers.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
        self.parameters = list(self.layers.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=_LR, fused=fused)
        self.loss = nn.CrossEntropyLoss()
        self.clip = nn.utils.clip_grad_norm_
        self.x, targets = map(torch.from_numpy, batch())
        self.targets = targets.reshape(-1)

    def step(self):
        embedding, lstm, linear = self.layers
        self.optimizer.zero_grad(set_to_none=True)
        y = linear(lstm(embedding(self.x))[0])
        loss = self.loss(y.view(-1, y.shape[-1]), self.targets)
        loss.backward()
        self.clip(self.parameters, _MAX_NORM)
        self.optimizer.step()
        return float(loss.detach())

    def gradients(self):
        return {name: p.grad.numpy() for name, p in self.layers.named_parameters()}


def contestants(hidden, threads):
    """Models with the same weights by name, checked to train alike; and the largest difference."""
    peers.load(("torch",))
    models = {"fastrnn": Own(hidden, threads)}
    weights = models["fastrnn"].model.state_dict()
    models |= {name: Torch(weights, threads, fused) for name, fused in ADAMS.items()}
    losses = {name: [model.step()] for name, model in models.items()}
    ours = models["fastrnn"].gradients()
    worst = max(difference(model.gradients(), ours) for model in models.values())
    for name, model in models.items():
        losses[name] += [model.step() for _ in range(_UPDATES)]
        worst = max(worst, difference({"losses": losses[name]}, {"losses": np.array(losses["fastrnn"])}))
    if not worst <= _TOLERANCE:
        raise Void(f"language model, H={hidden}: gradients or losses differ by {worst:.1e}")
    return models, worst


def parts(own, steps):
    """Share of every part in `steps` real training steps, name -> fraction."""
    from fastrnn import trainer

    stopwatch = Stopwatch()
    with contextlib.ExitStack() as stack:
        for layer, name in zip(own.model.layers, ("embedding", "LSTM", "linear"), strict=True):
            for attribute in ("_forward", "_backward"):
                stack.enter_context(stopwatch.watch(layer, attribute, name))
        stack.enter_context(stopwatch.watch(own.trainer.loss, "evaluate", "loss"))
        for function in ("gradient_norm", "limit_gradients"):
            stack.enter_context(stopwatch.watch(trainer, function, "clipping"))
        stack.enter_context(stopwatch.watch(own.trainer.optimizer, "step", "Adam"))
        stack.enter_context(stopwatch.watch(own.model, "zero_grad", "zero_grad"))
        start = time.perf_counter()
        for _ in range(steps):
            own.step()
        total = time.perf_counter() - start
    shares = {name: seconds / total for name, seconds in stopwatch.seconds.items()}
    return shares | {"rest": 1 - sum(shares.values())}


def measure(hidden, rounds):
    models, error = contestants(hidden, THREADS)
    timings = alternate({name: model.step for name, model in models.items()}, rounds)
    ms = {name: timing.seconds * 1e3 for name, timing in timings.items()}
    progress(f"  H={hidden}: " + ", ".join(f"{name} {time:.3g} ms" for name, time in ms.items()))
    ratios, cpus = ratios_to(timings, "fastrnn"), cpus_used(timings, THREADS)
    parts(models["fastrnn"], 5)
    steps = max(20, int(rounds * 100 / ms["fastrnn"]))
    return {
        "hidden": hidden,
        "threads": THREADS,
        "ms": ms,
        "ratios": ratios,
        "error": error,
        "cpus": cpus,
        "parts": parts(models["fastrnn"], steps),
    }


def run(options):
    return [child.run(measure, THREADS, hidden=hidden, rounds=options.rounds) for hidden in HIDDEN]


def _large_parts(row):
    """What takes more than it should, besides the LSTM and the linear layer."""
    return [name for name, part in row["parts"].items() if name not in ("LSTM", "linear") and part > _MOST_OF_A_PART]


def render(data):
    names = list(data[0]["ms"])
    titles = {"fastrnn": "fastrnn", "torch": "PyTorch", "torch, fused Adam": "PyTorch, fused Adam"}
    body = [[str(r["hidden"]), *r["ms"].values(), ratio(gain(r, ADAMS)), f"{r['error']:.0e}"] for r in data]
    shares = [[str(r["hidden"]), *map(share, r["parts"].values())] for r in data]
    notes = [
        f"Above {share(_MOST_OF_A_PART)} at H = {row['hidden']}, besides LSTM and linear: {', '.join(large)}."
        for row in data
        if (large := _large_parts(row))
    ]
    return [
        f"Embedding(256, {EMBEDDING}), LSTM, Linear, softmax cross-entropy, clipping, Adam; T = {STEPS}, B = {BATCH},",
        f"float32, {THREADS} threads. Ratios are of PyTorch's faster Adam to ours; the difference is that of",
        "gradients and losses.",
        "",
        *table(["H", *(f"{titles[n]} ms" for n in names), "ratio", "difference"], body),
        "Where fastrnn's time goes, each layer forward and backward:",
        "",
        *table(["H", *data[0]["parts"]], shares),
        *notes,
        *([""] if notes else []),
        *busy_note(data),
    ]


def verdicts(data):
    gains = [gain(row, ADAMS) for row in data]
    yield Verdict(
        f"language model, whole training step, H = {', '.join(str(r['hidden']) for r in data)}",
        "each 1.3",
        f"{', '.join(f'{number:.2f}' for number in gains)}; mean {geometric_mean(gains):.2f}",
        min(gains) >= 1.3,
    )
    largest, name, hidden = max(
        (part, name, row["hidden"])
        for row in data
        for name, part in row["parts"].items()
        if name not in ("LSTM", "linear")
    )
    yield Verdict(
        "language model, largest part but LSTM and linear",
        f"at most {share(_MOST_OF_A_PART)}",
        f"{share(largest)} ({name}, H={hidden})",
        largest <= _MOST_OF_A_PART,
    )
