"""Whether a series goes up or down next: the direction of its next value, from the 24 before.

    python examples/direction.py --plot direction.png

Two simulated series of 4000 values. One swings with a period that wanders (an oscillator driven by noise): there, the
direction can be told from the past. The other is a random walk: there, nobody can tell it, and an honest measurement
has to say so. A net of one GRU is trained on the first 70 % of each and judged on the last 30 %, which come later in
time, against two simple rules: always the direction that was more frequent in training (majority), and the direction of
the step before (persistence).
"""

import argparse

import numpy as np

import fastrnn
from fastrnn import plot

WINDOW = 24


def oscillator(steps: int, rng: np.random.Generator) -> np.ndarray:
    """A second-order autoregression around a period of about 16 steps (Yule 1927), with noise on what is seen."""
    swing, noise = np.zeros(steps), rng.standard_normal((2, steps))
    for t in range(2, steps):
        swing[t] = 1.96 * np.cos(2 * np.pi / 16) * swing[t - 1] - 0.96 * swing[t - 2] + noise[0, t]
    return swing + noise[1]


def random_walk(steps: int, rng: np.random.Generator) -> np.ndarray:
    """Sums of independent normal steps."""
    return np.cumsum(rng.standard_normal(steps))


def windows(series: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Changes in windows (T,n,1), the last change in each (n,), and whether the next one is upwards (n,1), 0 or 1."""
    x, following = fastrnn.data.windows(np.diff(series).astype(np.float32), length=WINDOW, horizon=1)
    return x, x[-1, :, 0], (following[0] > 0).astype(np.float32)


def train(x: np.ndarray, up: np.ndarray, epochs: int, seed: int) -> fastrnn.Sequential:
    """A net whose output is the logit of the next change being upwards."""
    model = fastrnn.Sequential(fastrnn.GRU(1, 16, seed=seed), fastrnn.Last(), fastrnn.Linear(16, 1, seed=seed + 1))
    trainer = fastrnn.Trainer(model, fastrnn.BinaryCrossEntropy(), fastrnn.Adam(lr=3e-3), clip_norm=1.0)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(len(up)), max(len(up) // 64, 1)):
            trainer.step(np.ascontiguousarray(x[:, rows]), up[rows])
    return model


def measure(series: np.ndarray, epochs: int, seed: int) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """The part of later directions that each rule tells; the net's probabilities of them, and what came."""
    x, last, up = windows(series / np.diff(series).std())
    split = int(0.7 * len(up))
    later = slice(split + WINDOW, None)  # no window reaches back into the training data
    model = train(x[:, :split], up[:split], epochs, seed)
    probability = 1 / (1 + np.exp(-model.forward(np.ascontiguousarray(x[:, later]))[0][:, 0]))
    came = up[later, 0] > 0.5
    told = {
        "majority": came == (up[:split].mean() > 0.5),
        "persistence": came == (last[later] > 0),
        "net": came == (probability > 0.5),
    }
    return {name: float(right.mean()) for name, right in told.items()}, probability, came


def draw(found: dict, left, right) -> None:
    """The parts told, and how often it went up for each probability that the net gave."""
    rules = list(next(iter(found.values()))[0])
    for number, (name, (told, probability, came)) in enumerate(found.items()):
        color, places = plot.COLORS[number], np.arange(len(rules)) + 0.4 * number - 0.2
        left.bar(places, [100 * told[rule] for rule in rules], 0.36, color=color, label=name)
        edges = np.linspace(0, 1, 11)
        bins = np.clip(np.digitize(probability, edges) - 1, 0, 9)
        kept = [b for b in range(10) if (bins == b).sum() >= 10]
        means = [[values[bins == b].mean() for b in kept] for values in (probability, came)]
        right.plot(*means, "o-", color=color, label=name)
    left.axhline(50, color="0.4", linestyle="--", linewidth=0.8)
    left.set(
        ylabel="directions told, %", ylim=(0, 100), title="later values", xticks=range(len(rules)), xticklabels=rules
    )
    right.plot([0, 1], [0, 1], color="0.4", linestyle="--", linewidth=0.8)
    right.set(xlabel="the net's probability of up", ylabel="part that went up", title="are the probabilities right?")
    for ax in (left, right):
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Measure both series, print and draw; returns what each rule told of each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--plot", metavar="FILE", default="direction.png", help="picture to write (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    axes = plot.new_figure("this example", 10, 4).subplots(1, 2)
    generators = np.random.default_rng(options.seed).spawn(2)
    found = {}
    for make, rng in zip((oscillator, random_walk), generators, strict=True):
        found[make.__name__.replace("_", " ")] = measure(make(options.steps, rng), options.epochs, options.seed)
    for name, (told, _, came) in found.items():
        error = 50 / np.sqrt(len(came))  # one standard error of a part near one half, in percent
        parts = ", ".join(f"{rule} {100 * part:.1f} %" for rule, part in told.items())
        print(f"{name}: {parts} of {len(came)} directions told (± {error:.1f} %)")
    draw(found, *axes)
    plot.save(axes[0], options.plot)
    print(f"picture: {options.plot}")
    return {name: told for name, (told, _, _) in found.items()}


if __name__ == "__main__":
    main()
