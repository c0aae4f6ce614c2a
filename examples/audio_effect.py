"""A guitar effect as a recurrent net, running over an audio stream block by block.

A small LSTM learns to sound like a given device from its input and output alone, fast enough to take the device's place
in a live signal: "Real-Time Guitar Amplifier Emulation with Deep Learning" (Wright, Damskägg, Juvela & Välimäki 2020,
Applied Sciences 10(3)). Here the device is an overdrive made of formulas, and the guitar a Karplus–Strong synthesiser,
so that nothing has to be downloaded.

    python examples/audio_effect.py
    python examples/audio_effect.py --wav folder        # and the sounds to listen to

A sound card asks for a block of some samples at a time, and must have it before the next one is due. The model's state
goes from block to block, `out=` puts the result into the caller's buffer, and the samples are those of one pass over
the whole signal, bit for bit. The real-time factor is the time spent by the length of what was played: below 1 it
keeps up. It ends in a picture, audio_effect.png: the device's output and the net's, and the real-time factors.
"""

import argparse
import math
import pathlib
import time
import wave

import numba
import numpy as np

import fastrnn
from fastrnn import plot

RATE = 44_100  # samples a second
BLOCKS = (16, 32, 64, 128, 256, 512)  # samples
BASS, LEVEL, TONE = (1 - math.exp(-2 * math.pi * hertz / RATE) for hertz in (700, 3.2, 4000))  # of one-pole filters


# ---- the sounds ----


def pluck(frequency: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A plucked string (Karplus & Strong 1983): noise that goes round a loop of one period through a mean of two."""
    period = round(RATE / frequency)
    string, last = rng.uniform(-1, 1, period), 0.0
    periods = []
    for _ in range(round(seconds * RATE / period) + 1):
        periods.append(string)
        before = np.append(last, string[:-1])  # y[n] = (y[n − N] + y[n − N − 1]) / 2
        string, last = 0.498 * (string + before), string[-1]
    return np.concatenate(periods)


def guitar(seconds: float, seed: int) -> np.ndarray:
    """Notes and chords of a pentatonic scale from E2 to E5, soft and loud, (N,) float32 within ±1."""
    rng = np.random.default_rng(seed)
    signal = np.zeros(round(seconds * RATE))
    begin = 0
    while begin < len(signal):
        loudness = rng.uniform(0.1, 1.0)
        for _ in range(rng.integers(1, 4)):
            semitones = 12 * rng.integers(0, 3) + rng.choice([0, 3, 5, 7, 10])
            note = loudness * pluck(82.41 * 2 ** (semitones / 12), rng.uniform(0.3, 1.5), rng)[: len(signal) - begin]
            signal[begin : begin + len(note)] += note
        begin += int(RATE * rng.choice([0.15, 0.3, 0.3, 0.6]))
    return (signal / np.abs(signal).max()).astype(np.float32)


@numba.njit
def overdrive(signal):
    """The device to be learnt: what it gives for `signal`, (N,) float32.

    Only what is above 700 Hz is driven, the less the louder the last 50 ms were; a diode's clipping, not the same on
    both sides; the dry signal beside it; and a tone control that takes away what is above 4 kHz.
    """
    bass = level = tone = 0.0
    out = np.empty_like(signal)
    for n in range(signal.size):
        x = signal[n]
        bass += BASS * (x - bass)
        treble = x - bass
        level += LEVEL * (abs(x) - level)
        clipped = np.tanh(30 * treble / (1 + 6 * level) + 0.3) - np.tanh(0.3)
        tone += TONE * (0.5 * clipped + 0.4 * x - tone)
        out[n] = tone
    return out


# ---- the model ----


def build(units: int = 16, seed: int = 0) -> fastrnn.Residual:
    """x + W h + b with an LSTM's h, as in the paper: what the net has to learn is how the sound is changed."""
    rngs = np.random.default_rng(seed).spawn(2)
    return fastrnn.Residual(
        fastrnn.Sequential(fastrnn.LSTM(1, units, seed=rngs[0]), fastrnn.Linear(units, 1, seed=rngs[1]))
    )


def train(model, signal: np.ndarray, target: np.ndarray, epochs: int, lanes: int = 64, steps: int = 512) -> None:
    """Truncated BPTT over `lanes` parts of the recording side by side, the state carried through each."""
    batches = fastrnn.data.SeriesStream(signal, lanes, steps, targets=target)
    schedule = fastrnn.Cosine(epochs * len(batches))
    trainer = fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.Adam(1e-2), clip_norm=1.0, schedule=schedule)
    begin = time.perf_counter()

    def show(trainer, record):
        if trainer.updates % (10 * len(batches)) == 0:
            print(f"  {trainer.updates:5} updates  {time.perf_counter() - begin:5.1f} s  loss {record['loss']:.2e}")

    trainer.fit(batches, epochs=epochs, callbacks=show, progress=False)


def error_to_signal(target: np.ndarray, output: np.ndarray) -> float:
    """The energy of the difference by the energy of the target."""
    return float(np.sum(np.square(target - output, dtype=np.float64)) / np.sum(np.square(target, dtype=np.float64)))


# ---- the stream ----


def play(effect, signal: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Send (N,) samples through `effect(samples, state, out) -> state`; the output (N,), and the seconds of each block.

    `samples` and `out` are views of some samples of the whole signals: nothing is copied on the way.
    """
    output, seconds, state = np.empty_like(signal), [], None
    for n in range(0, len(signal), block):
        begin = time.perf_counter()
        state = effect(signal[n : n + block], state, output[n : n + block])
        seconds.append(time.perf_counter() - begin)
    return output, np.array(seconds)


def fastrnn_effect(model):
    """The model as `play` takes it."""

    def effect(samples, state, out):  # (T,) seen as (T,1,1): T steps, one stream, one feature
        return model.forward(samples[:, None, None], state, out=out[:, None, None])[1]

    return effect


def torch_effect(model):
    """The same net in PyTorch, with the weights of `model`; None if PyTorch is not there."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)  # faster than more of them for a net as small
    state = model.state_dict()
    units = state["0.1.weight"].shape[1]
    layers = {"0.0.": torch.nn.LSTM(1, units), "0.1.": torch.nn.Linear(units, 1)}
    for prefix, layer in layers.items():
        layer.load_state_dict({name: torch.from_numpy(state[prefix + name]) for name in layer.state_dict()})
    lstm, linear = layers.values()

    @torch.inference_mode()
    def effect(samples, state, out):
        x = torch.from_numpy(samples)[:, None, None]
        h, state = lstm(x, state)
        torch.add(x, linear(h), out=torch.from_numpy(out)[:, None, None])
        return state

    return effect


def real_time(effects: dict, signal: np.ndarray) -> dict:
    """For each effect by name and each block size: the real-time factor, and the slowest block in milliseconds."""
    figures = {name: {} for name in effects}
    for block in BLOCKS:
        for name, effect in effects.items():
            play(effect, signal[: 20 * block], block)
            _, seconds = play(effect, signal, block)
            figures[name][block] = seconds.sum() * RATE / len(signal), 1000 * seconds.max()
    return figures


# ---- what is shown ----


def print_figures(figures: dict) -> None:
    """A line for each block size."""
    print("block      due  " + "".join(f"{name:>10}: factor   slowest block" for name in figures))
    for block in BLOCKS:
        print(f"{block:5} {1000 * block / RATE:5.2f} ms  ", end="")
        columns = [figures[name][block] for name in figures]
        print("".join(f"{factor:18.3f} {slowest:12.2f} ms" for factor, slowest in columns))


def draw(path, signal, target, output, figures) -> None:
    """The picture: a stretch of the signals, and the real-time factors."""
    figure = plot.new_figure("this example", 11, 4)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    begin = int(np.argmax(np.abs(target[: -RATE // 50])))  # the loudest place
    part = slice(begin, begin + RATE // 100)
    milliseconds = 1000 * np.arange(len(signal[part])) / RATE
    left.plot(milliseconds, signal[part], color="0.7", label="input")
    left.plot(milliseconds, target[part], color="C0", linewidth=2.5, label="overdrive")
    left.plot(milliseconds, output[part], color="C1", linewidth=1, label="LSTM")
    left.set(xlabel="time (ms)", ylabel="amplitude", title="Held-out sound")
    left.legend()
    for name, by_block in figures.items():
        right.plot(list(by_block), [factor for factor, _ in by_block.values()], "o-", label=name)
    right.axhline(1, color="0.4", linestyle=":", linewidth=1)
    right.set(xscale="log", yscale="log", xlabel="samples in a block", ylabel="processing time / audio time")
    right.set_xticks(BLOCKS, [str(block) for block in BLOCKS])
    right.minorticks_off()
    right.set_title("Real-time factor: below 1 keeps up")
    right.grid(alpha=0.3)
    right.legend()
    plot.save(figure, path)
    print(f"picture: {path}")


def write_wav(path, signal: np.ndarray) -> None:
    """`signal` within ±1 as 16-bit mono."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((32767 * np.clip(signal, -1, 1)).astype("<i2").tobytes())


def main(arguments: list[str] | None = None) -> dict:
    """Train, measure, draw; returns the error-to-signal ratios and the real-time figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=40, help="of sound to learn from")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--units", type=int, default=16)
    parser.add_argument("--held-out", type=float, default=10, help="seconds of sound to test and to time with")
    parser.add_argument(
        "--plot", metavar="FILE", default="audio_effect.png", help="picture to write (default: %(default)s)"
    )
    parser.add_argument("--wav", type=pathlib.Path, help="a folder for input.wav, target.wav and output.wav")
    options = parser.parse_args(arguments)

    signal, held_out = guitar(options.seconds, seed=0), guitar(options.held_out, seed=1)
    target, held_out_target = overdrive(signal), overdrive(held_out)
    model = build(options.units)
    effect = fastrnn_effect(model)
    before = error_to_signal(held_out_target, play(effect, held_out, 4096)[0])
    print(f"{model.num_parameters} parameters, {options.seconds:g} s of sound to learn from")
    train(model, signal, target, options.epochs)

    whole, _ = model.forward(held_out[:, None, None])
    output, _ = play(effect, held_out, 128)
    if not np.array_equal(output, whole[:, 0, 0]):
        raise AssertionError("blocks must give the samples of one pass")
    after = error_to_signal(held_out_target, output)
    print(f"error-to-signal ratio on held-out sound: {before:.3f} before training, {after:.4f} after")

    effects = {"fastrnn": effect, "torch": torch_effect(model)}
    figures = real_time({name: effect for name, effect in effects.items() if effect}, held_out)
    print_figures(figures)
    if options.wav:
        options.wav.mkdir(parents=True, exist_ok=True)
        for name, sound in (("input", held_out), ("target", held_out_target), ("output", output)):
            write_wav(options.wav / f"{name}.wav", sound)
    draw(options.plot, held_out, held_out_target, output, figures)
    return {"before": before, "after": after, "real time": figures}


if __name__ == "__main__":
    main()
