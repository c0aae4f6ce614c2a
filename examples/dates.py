"""Reads dates in many spellings, and writes them as ISO 8601 has them: "the 3rd of March 1994" is 1994-03-03.

    python examples/dates.py --plot dates.png

A network reads the letters one by one, and its final state is the initial state of a second network, which writes the
ten characters (Sutskever et al. 2014, "Sequence to Sequence Learning with Neural Networks"). Nothing is told about
months, ordinals or the order of day and month: all of it is learnt from pairs. One date in five is never seen in
training, in no spelling; the accuracy is the part of those that are written without a mistake.
"""

import argparse
import datetime
import time
from collections.abc import Callable

import numpy as np

import fastrnn
from fastrnn import plot

FIRST, DAYS = datetime.date(1950, 1, 1), 36525  # to the end of 2049, so that two digits name one year
_ORDER = np.random.default_rng(0).permutation(DAYS)
HELD_OUT, TRAINING = _ORDER[: DAYS // 5], _ORDER[DAYS // 5 :]  # days since the first
LETTERS = sorted(set("0123456789 ,./-'" + "abcdefghijklmnopqrstuvwxyz" + "ADFJMNOSTW"))
LONGEST, LENGTH = 32, 10  # of a spelling, and of an ISO date
WRITTEN = "0123456789-"
START = len(WRITTEN)  # what the decoder reads first

MONTHS = "January February March April May June July August September October November December".split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def ordinal(n: int) -> str:
    """1st, 2nd, 3rd, 4th …"""
    return f"{n}{'th' if n in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


SPELLINGS: dict[str, Callable[[datetime.date], str]] = {
    "3 March 1994": lambda d: f"{d.day} {MONTHS[d.month - 1]} {d.year}",
    "March 3, 1994": lambda d: f"{MONTHS[d.month - 1]} {d.day}, {d.year}",
    "Mar 3 '94": lambda d: f"{MONTHS[d.month - 1][:3]} {d.day} '{d.year % 100:02}",
    "3-Mar-1994": lambda d: f"{d.day}-{MONTHS[d.month - 1][:3]}-{d.year}",
    "Thursday, March 3rd, 1994": lambda d: f"{WEEKDAYS[d.weekday()]}, {MONTHS[d.month - 1]} {ordinal(d.day)}, {d.year}",
    "the 3rd of March 1994": lambda d: f"the {ordinal(d.day)} of {MONTHS[d.month - 1]} {d.year}",
    "3.3.1994": lambda d: f"{d.day}.{d.month}.{d.year}",  # the day first
    "03.03.94": lambda d: f"{d.day:02}.{d.month:02}.{d.year % 100:02}",
    "3/3/1994": lambda d: f"{d.month}/{d.day}/{d.year}",  # the month first
    "1994/3/3": lambda d: f"{d.year}/{d.month}/{d.day}",
    "19940303": lambda d: f"{d.year}{d.month:02}{d.day:02}",
}


class Reader:
    """An encoder of letters and a decoder of ISO dates, trained together."""

    def __init__(self, units: int, batch: int, updates: int, seed: int = 0, lr: float = 3e-3):
        seeds = np.random.default_rng(seed).spawn(5)
        self.encoder = fastrnn.Sequential(
            fastrnn.Embedding(len(LETTERS), 16, seed=seeds[0]), fastrnn.LSTM(16, units, seed=seeds[1])
        )
        self.decoder = fastrnn.Sequential(
            fastrnn.Embedding(len(WRITTEN) + 1, 16, seed=seeds[2]),
            fastrnn.LSTM(16, units, seed=seeds[3]),
            fastrnn.Linear(units, len(WRITTEN), seed=seeds[4]),
        )
        self.reading, self.writing = self.encoder.workspace(LONGEST, batch), self.decoder.workspace(LENGTH, batch)
        self.loss, self.schedule, self.updates = fastrnn.CrossEntropy(), fastrnn.OneCycle(updates), 0
        self.optimizers = {model: fastrnn.Adam(lr) for model in (self.encoder, self.decoder)}

    def update(self, texts: list[str], dates: list[str]) -> float:
        """One update on spellings and what they mean; the loss before it."""
        source, lengths = encoded(texts)
        wanted = np.array([[WRITTEN.index(c) for c in date] for date in dates]).T
        given = np.concatenate([np.full((1, len(dates)), START), wanted[:-1]])  # teacher forcing
        for model in self.optimizers:
            model.zero_grad()
        read, (_, final) = self.encoder.forward(source, lengths=lengths, workspace=self.reading)
        y, _ = self.decoder.forward(given, (None, final, None), workspace=self.writing)
        value, dy = self.loss(y, wanted)
        _, (_, d_final, _) = self.decoder.backward(dy, workspace=self.writing)
        self.encoder.backward(np.zeros_like(read), (None, d_final), workspace=self.reading)
        for model, optimizer in self.optimizers.items():
            fastrnn.clip_grad_norm(model, 1.0)
            optimizer.step(model, self.schedule(self.updates))
        self.updates += 1
        return value

    def read(self, texts: list[str]) -> list[str]:
        """Each text as an ISO date; at every step the likeliest character, which is read at the next."""
        source, lengths = encoded(texts)
        _, (_, final) = self.encoder.forward(source, lengths=lengths)
        state, last, written = (None, final, None), np.full(len(texts), START), []
        for _ in range(LENGTH):
            logits, state = self.decoder.step(last, state)
            last = logits.argmax(-1)
            written.append(last)
        return ["".join(WRITTEN[c] for c in row) for row in np.stack(written, axis=1)]


def encoded(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The letters (T,B), padded, and the lengths (B,)."""
    return fastrnn.data.pad([np.array([LETTERS.index(c) for c in text]) for text in texts])


def draw_dates(count: int, days: np.ndarray, rng: np.random.Generator) -> list[datetime.date]:
    """Random dates out of `days`."""
    return [FIRST + datetime.timedelta(int(day)) for day in rng.choice(days, count)]


def accuracy(reader: Reader, count: int, seed: int = 1) -> dict[str, float]:
    """The part of held-out dates, `count` a spelling, that are read without a mistake, by spelling."""
    rng, found = np.random.default_rng(seed), {}
    for example, spell in SPELLINGS.items():
        dates = draw_dates(count, HELD_OUT, rng)
        read = reader.read([spell(date) for date in dates])
        found[example] = float(np.mean([r == date.isoformat() for r, date in zip(read, dates, strict=True)]))
    return found


def draw_accuracy(curve: list[tuple[int, dict[str, float]]], ax) -> None:
    """The accuracy of each spelling while it was learnt."""
    updates, found = zip(*curve, strict=True)
    for number, example in enumerate(SPELLINGS):
        style = {
            "color": plot.COLORS[number % len(plot.COLORS)],
            "linestyle": "-" if number < len(plot.COLORS) else "--",
        }
        ax.plot(updates, [100 * parts[example] for parts in found], label=example, **style)
    ax.set(title="held-out dates", xlabel="updates", ylabel="read without a mistake, %", ylim=(-2, 102))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def main(arguments: list[str] | None = None) -> float:
    """Train, print and draw; returns the accuracy in the end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", metavar="FILE", default="dates.png", help="picture to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    axes = plot.new_figure("this example", 9, 4.5).subplots()
    reader = Reader(options.units, options.batch, options.updates, options.seed)
    rng, spellings, curve = np.random.default_rng(options.seed), list(SPELLINGS.values()), []
    begin = time.perf_counter()
    for n in range(1, options.updates + 1):
        dates = draw_dates(options.batch, TRAINING, rng)
        texts = [
            spellings[k](date) for k, date in zip(rng.integers(len(spellings), size=len(dates)), dates, strict=True)
        ]
        value = reader.update(texts, [date.isoformat() for date in dates])
        if n % max(options.updates // 20, 1) == 0:
            curve.append((n, accuracy(reader, 50)))
            mean = np.mean(list(curve[-1][1].values()))
            print(f"{n:5} updates  {time.perf_counter() - begin:5.1f} s  loss {value:.4f}  exact {mean:.1%}")
    found = accuracy(reader, 200, seed=2)
    for example, read in zip(SPELLINGS, reader.read(list(SPELLINGS)), strict=True):
        print(f"{example:>25} → {read}  {found[example]:6.1%} of held-out dates")
    reached = float(np.mean(list(found.values())))
    print(f"read without a mistake: {reached:.1%} of held-out dates")
    draw_accuracy(curve, axes)
    plot.save(axes, options.plot)
    print(f"picture: {options.plot}")
    return reached


if __name__ == "__main__":
    main()
