"""An encoder–decoder (Sutskever et al. 2014, "Sequence to Sequence Learning with Neural Networks") that reverses.

One network reads a sequence of symbols, and its final state is the initial state of a second network, which writes
the sequence backwards and then says that it is done. The two are models of their own: the decoder's `backward` gives
the gradient of its initial state, and that is the gradient of the encoder's final state.

    python examples/encoder_decoder.py

In training the decoder is given the right symbol of the step before (teacher forcing); when it is tested it is given
what it wrote itself. Sequences have 1 to 8 symbols, right-padded; `lengths` and the loss's mask keep padding out.

It ends in a picture, encoder_decoder.png: the loss, and what both networks have in mind while one sequence is reversed.
"""

import argparse
import time

import numpy as np

import fastrnn
from fastrnn import plot

SYMBOLS = 8
START, END = SYMBOLS, SYMBOLS + 1  # what the decoder reads first, and writes last
LONGEST = 8


def build(
    units: int = 64, embedding: int = 16, dtype: str = "float32", seed: int = 0
) -> tuple[fastrnn.Sequential, fastrnn.Sequential]:
    """An encoder and a decoder, whose LSTMs have states of one size."""
    options = [{"dtype": dtype, "seed": rng} for rng in np.random.default_rng(seed).spawn(5)]
    encoder = fastrnn.Sequential(
        fastrnn.Embedding(SYMBOLS, embedding, **options[0]), fastrnn.LSTM(embedding, units, **options[1])
    )
    decoder = fastrnn.Sequential(
        fastrnn.Embedding(SYMBOLS + 2, embedding, **options[2]),
        fastrnn.LSTM(embedding, units, **options[3]),
        fastrnn.Linear(units, SYMBOLS + 2, **options[4]),
    )
    return encoder, decoder


def draw(batch: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Random sequences: what the encoder reads (T,B) and their lengths (B,), what the decoder reads and is to write."""
    lengths = rng.integers(1, LONGEST + 1, batch)
    sequences = [rng.integers(0, SYMBOLS, length) for length in lengths]
    source, _ = fastrnn.data.pad(sequences)
    given, _ = fastrnn.data.pad([np.array([START, *sequence[::-1]]) for sequence in sequences])
    wanted, _ = fastrnn.data.pad([np.array([*sequence[::-1], END]) for sequence in sequences])
    return source, lengths, given, wanted


class ReversalTrainer:
    """Trains both models together, each with an optimiser of its own."""

    def __init__(self, encoder, decoder, batch: int = 64, lr: float = 5e-3):
        self.encoder, self.decoder, self.batch = encoder, decoder, batch
        self.loss = fastrnn.CrossEntropy()
        self.optimizers = {model: fastrnn.Adam(lr) for model in (encoder, decoder)}
        self.reading, self.writing = encoder.workspace(LONGEST, batch), decoder.workspace(LONGEST + 1, batch)

    def add_gradients(self, source, lengths, given, wanted) -> float:
        """The mean loss over all symbols that are to be written; its gradients are added to both models' own."""
        read, (_, final) = self.encoder.forward(source, lengths=lengths, workspace=self.reading)
        y, _ = self.decoder.forward(given, (None, final, None), lengths=lengths + 1, workspace=self.writing)
        valid = np.arange(len(given))[:, np.newaxis] < lengths + 1
        value, dy = self.loss(y, wanted, mask=valid)
        _, (_, d_initial, _) = self.decoder.backward(dy, workspace=self.writing)
        # The loss does not see what the encoder puts out at each step, only its final state.
        self.encoder.backward(np.zeros_like(read), (None, d_initial), workspace=self.reading)
        return value

    def update(self, rng: np.random.Generator) -> float:
        """One update of both models; the loss before it."""
        for model in self.optimizers:
            model.zero_grad()
        value = self.add_gradients(*draw(self.batch, rng))
        for model, optimizer in self.optimizers.items():
            fastrnn.clip_grad_norm(model, 1.0)
            optimizer.step(model)
        return value


def decode(encoder, decoder, source, lengths) -> list[list[int]]:
    """What the decoder writes of each sequence: at every step the likeliest symbol, which it reads at the next."""
    _, (_, final) = encoder.forward(source, lengths=lengths)
    batch = len(lengths)
    state, symbols = (None, final, None), np.full(batch, START)
    written, done = [[] for _ in range(batch)], np.zeros(batch, bool)
    for _ in range(LONGEST + 1):
        logits, state = decoder.step(symbols, state)
        symbols = logits.argmax(-1)
        done |= symbols == END
        for b in np.flatnonzero(~done):
            written[b].append(int(symbols[b]))
    return written


def accuracy(encoder, decoder, sequences: int = 1000, seed: int = 1) -> float:
    """The part of fresh random sequences that are reversed without a mistake, their end included."""
    source, lengths, _, _ = draw(sequences, np.random.default_rng(seed))
    written = decode(encoder, decoder, source, lengths)
    right = [w == source[:n, b][::-1].tolist() for b, (w, n) in enumerate(zip(written, lengths, strict=True))]
    return float(np.mean(right))


def states_of(model, x, state=None) -> tuple[np.ndarray, np.ndarray]:
    """The hidden states (T,H) of a model's LSTM over one sequence of symbols (T,), and its final state."""
    workspace = model.workspace(len(x), 1)
    _, (_, final, *_) = model.forward(x[:, np.newaxis], state, workspace=workspace)
    return workspace.states()[1][0]["h"][:, 0], final


def draw_states(encoder, decoder, axes, seed: int = 2) -> None:
    """Hidden states while a random sequence is read, and while its reversal is written."""
    symbols = np.random.default_rng(seed).integers(0, SYMBOLS, LONGEST)
    reading, final = states_of(encoder, symbols)
    [written] = decode(encoder, decoder, symbols[:, np.newaxis], np.array([LONGEST]))
    writing, _ = states_of(decoder, np.array([START, *written]), (None, final, None))
    letters = [chr(ord("a") + symbol) for symbol in (*symbols, *written)]
    plot.states(np.concatenate([reading, writing]), axes, labels=[*letters, "end"])
    axes.axvline(LONGEST - 0.5, color="black")
    axes.set(title=f"reading {''.join(letters[:LONGEST])}, writing {''.join(letters[LONGEST:])}", xlabel="symbol")


def main(arguments: list[str] | None = None) -> float:
    """Train, print the loss on the way and the accuracy in the end, and draw; returns the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--updates", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--plot", metavar="FILE", default="encoder_decoder.png", help="picture to write (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    upper, lower = plot.new_figure("this example", 8, 8).subplots(2)
    encoder, decoder = build(seed=options.seed)
    trainer, rng = ReversalTrainer(encoder, decoder), np.random.default_rng(options.seed)
    begin, history = time.perf_counter(), []
    for n in range(1, options.updates + 1):
        value = trainer.update(rng)
        history.append({"step": n, "loss": value})
        if n % 500 == 0 or n == options.updates:
            print(f"{n:5} updates  {time.perf_counter() - begin:5.1f} s  loss {value:.4f}")
    reached = accuracy(encoder, decoder)
    print(f"reversed without a mistake: {100 * reached:.1f} % of 1,000 sequences")
    plot.history(history, upper)
    draw_states(encoder, decoder, lower)
    plot.save(upper, options.plot)
    print(f"picture: {options.plot}")
    return reached


if __name__ == "__main__":
    main()
