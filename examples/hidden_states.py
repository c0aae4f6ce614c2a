"""What a network has in mind: an LSTM that counts open brackets, and the hidden states over time that do it.

At every step the network says how many brackets are open. LSTMs learn to count with single units of their cell state,
which grow and shrink by a constant (Weiss, Goldberg & Yahav 2018, "On the Practical Computational Power of Finite
Precision RNNs for Language Recognition"). Here one sees them: `workspace.states()` has the states of every step.

    python examples/hidden_states.py

It ends in a picture, hidden_states.png: below each symbol the cell states of all units, and above them the count.
"""

import argparse
from collections.abc import Iterator

import numpy as np

import fastrnn
from fastrnn import plot

SYMBOLS = "().."  # dots don't count, and come as often as brackets
STEPS, BATCH, UNITS = 40, 32, 8
LONGER = 60  # steps of the sequence that is looked at


def draw(steps: int, batch: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random sequences of symbols (T,B), and how many brackets are open after each step (T,B,1)."""
    x = rng.integers(0, len(SYMBOLS), (steps, batch))
    count = np.zeros(batch, int)
    counts = np.empty((steps, batch, 1), np.float32)
    for t in range(steps):
        x[t, (x[t] == SYMBOLS.index(")")) & (count == 0)] = SYMBOLS.index("(")  # nothing is open that it could close
        count += (x[t] == SYMBOLS.index("(")).astype(int) - (x[t] == SYMBOLS.index(")"))
        counts[t, :, 0] = count
    return x, counts


def batches(count: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """So many fresh batches."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield draw(STEPS, BATCH, rng)


def correlations(states: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Of each unit (T,H) with the count (T,)."""
    return np.array([np.corrcoef(unit, counts)[0, 1] for unit in states.T])


def main(arguments: list[str] | None = None) -> float:
    """Train, find the units that count, and draw; returns the strongest correlation of a unit with the count."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument(
        "--plot", metavar="FILE", default="hidden_states.png", help="picture to write (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    upper, lower = plot.new_figure("this example", 10, 6).subplots(2, height_ratios=[1, 2])
    model = fastrnn.Sequential(
        fastrnn.OneHot(len(SYMBOLS)), fastrnn.LSTM(len(SYMBOLS), UNITS, seed=0), fastrnn.Linear(UNITS, 1, seed=1)
    )
    trainer = fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.Adam(lr=1e-2), clip_norm=1.0)
    history = trainer.fit(batches(options.updates))
    x, counts = draw(LONGER, 1, np.random.default_rng(1))
    workspace = model.workspace(LONGER, 1)
    y, _ = model.forward(x, workspace=workspace)
    states, counts = workspace.states()[1][0]["c"][:, 0], counts[:, 0, 0]
    found = correlations(states, counts)
    order = np.argsort(np.abs(found))
    print(f"mean squared error after {len(history)} updates: {history[-1]['loss']:.4f}")
    print(f"unit {order[-1]} counts: its correlation with the number of open brackets is {found[order[-1]]:.3f}")
    upper.step(range(LONGER), counts, where="mid", color="0.35", label="open brackets")
    upper.plot(y[:, 0, 0], ".", color=plot.COLORS[0], label="the network's answer")
    upper.set(xlim=(-0.5, LONGER - 0.5), ylabel="count", xticks=[])
    upper.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    plot.states(states[:, order], lower, labels=[SYMBOLS[token] for token in x[:, 0]])
    lower.set(xlabel="symbol", ylabel="unit, those that count on top", yticks=range(UNITS), yticklabels=order)
    lower.images[0].colorbar.set_label("cell state c")
    plot.save(upper, options.plot)
    print(f"picture: {options.plot}")
    return float(np.abs(found).max())


if __name__ == "__main__":
    main()
