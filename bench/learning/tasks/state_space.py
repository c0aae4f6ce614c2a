"""Dynamical systems, free-running: recurrent nets as state-space models against a sliding window."""

import statistics
from typing import NamedTuple

import numpy as np

import fastrnn

STEPS, WARM_UP = 200, 50  # of a sequence; at its beginning, where the measurements are known
TRAINING, TESTS = 32, 50  # sequences
UPDATES = 2000
RECURRENT = {"RNN": (fastrnn.RNN, 32), "GRU": (fastrnn.GRU, 18), "LSTM": (fastrnn.LSTM, 15)}  # and the hidden units
PARAMETERS = 1150  # about, of every net
WINDOWS = (10, 20, 30, 50)

TITLE = "Dynamical systems, free-running"
SETUP = f"""\
Two systems of which one quantity is measured, with noise; a net has to go on by itself, and its error counts against
the noiseless truth: root mean square over {TESTS} new sequences and their steps from {WARM_UP} to {STEPS}, as a
fraction of the truth's standard deviation.

- *Tanks*: the two cascaded tanks of Schoukens & Noël (Three benchmarks addressing open challenges in nonlinear system
  identification, IFAC 2017), simulated: √x outflows, overflow of both, a pump with a new random level every 10 steps;
  measured is the second tank's level (0 to 10) with a standard deviation of 0.2.
- *Pendulum*: an undamped pendulum swinging by up to 156°; measured is the angle every 0.2, with a standard deviation of
  0.1. Nothing drives it, so that its energy and its phase have to be gathered from the noise.

The recurrent nets (one layer and a linear one) are state-space models: for the tanks the input is the pump alone, for
the pendulum the last angle, measured for {WARM_UP} steps and their own output from then on. The sliding-window net (one
tanh layer and a linear one) sees the last n measurements and, for the tanks, the last n pump levels; after {WARM_UP}
steps its outputs take the place of the measurements, the series-parallel training and parallel use of Narendra &
Parthasarathy (1990). Every net has about {PARAMETERS} parameters and learns from {TRAINING} sequences in {UPDATES}
updates of Adam, with the next measurement as its target. n is {", ".join(map(str, WINDOWS))}, and the one of least
mean test error counts, which favours the window."""
GOAL = "a recurrent net below the best sliding window on both, by the mean of all seeds"
PUBLISHED = "none for these data; the comparison is with the sliding window"
SEEDS = (0, 1, 2, 3, 4)


class Sequences(NamedTuple):
    """(T,B,D) inputs, D = 0 without any, that reach the state before `truth`; noisy and true outputs, (T,B,1)."""

    inputs: np.ndarray
    measured: np.ndarray
    truth: np.ndarray


def cascaded_tanks(pump):
    """Level of the second tank (T,B) after each step of `pump` (T,B), from empty tanks 10 high.

    x₁′ = k·(u - √x₁), x₂′ = k·(√x₁ - √x₂), k = 0.25, by Euler's method with four steps a step. What is too much for
    the first tank flows half into the second, half beside it.
    """
    h = 0.25 / 4
    first = second = np.zeros(pump.shape[1])
    levels = np.empty(pump.shape)
    for t, u in enumerate(pump):
        for _ in range(4):
            outflow = np.sqrt(first)
            second = second + h * (outflow - np.sqrt(second))
            first = first + h * (u - outflow)
            overflow = np.maximum(first - 10, 0)
            first = first - overflow
            second = np.minimum(second + overflow / 2, 10)
        levels[t] = second
    return levels


def pendulum(angle, velocity, steps, refine=4):
    """Angles (steps,B) at times 0, 0.2, 0.4, … from those and the velocities (B,) at first: θ″ = -sin θ, by RK4."""
    h = 0.2 / refine

    def derivative(state):
        return np.stack((state[1], -np.sin(state[0])))

    state, angles = np.stack((angle, velocity)), np.empty((steps, len(angle)))
    for t in range(steps):
        angles[t] = state[0]
        for _ in range(refine):
            k1 = derivative(state)
            k2 = derivative(state + h / 2 * k1)
            k3 = derivative(state + h / 2 * k2)
            k4 = derivative(state + h * k3)
            state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return angles


def _tanks(rng, count):
    pump = np.repeat(rng.uniform(0.5, 4.5, (-(-STEPS // 10), count)), 10, axis=0)[:STEPS]
    truth = cascaded_tanks(pump)
    return _sequences(pump[..., None], truth, 0.2, rng)


def _pendulum(rng, count):
    angle, velocity = rng.uniform(-2, 2, count), rng.uniform(-1, 1, count)
    truth = pendulum(angle, velocity, STEPS)
    return _sequences(np.empty((STEPS, count, 0)), truth, 0.1, rng)


def _sequences(inputs, truth, noise, rng):
    return Sequences(inputs, (truth + noise * rng.standard_normal(truth.shape))[..., None], truth[..., None])


PROBLEMS = {"tanks": (_tanks, 5e-3), "pendulum": (_pendulum, 1e-2)}  # and Adam's learning rate


def _standardised(sequences, example):
    """As float32, by the means and deviations of `example`."""
    inputs, measured = ((a.mean((0, 1)), a.std((0, 1))) for a in (example.inputs, example.measured))
    scales = inputs, measured, measured
    return Sequences(*(((a - m) / s).astype(np.float32) for a, (m, s) in zip(sequences, scales, strict=True)))


def nrmse(outputs, truth):
    """Root mean square error, as a fraction of the truth's standard deviation."""
    return float(np.sqrt(np.mean((outputs - truth) ** 2)) / truth.std())


class Recurrent:
    """A recurrent layer and a linear one, of the system's inputs, or of the last output if it has none."""

    def __init__(self, cell, features, seeds):
        layer, hidden = RECURRENT[cell]
        self.model = fastrnn.Sequential(
            layer(max(features, 1), hidden, seed=next(seeds)), fastrnn.Linear(hidden, 1, seed=next(seeds))
        )

    def examples(self, data):
        """x, targets"""
        if data.inputs.shape[-1]:
            return data.inputs, data.measured
        return data.measured[:-1], data.measured[1:]

    def run_free(self, data):
        """The outputs after the warm-up."""
        if data.inputs.shape[-1]:
            return self.model(data.inputs)[0][WARM_UP:]
        return fastrnn.generate(self.model, data.measured[:WARM_UP], STEPS - WARM_UP)


class SlidingWindow:
    """A hidden layer and a linear one, of the last `length` outputs and, if the system has any, inputs."""

    def __init__(self, length, features, seeds):
        self.length, width = length, length * (features + 1)
        hidden = round((PARAMETERS - 1) / (width + 2))
        self.model = fastrnn.Sequential(
            fastrnn.Linear(width, hidden, seed=next(seeds)), fastrnn.Tanh(), fastrnn.Linear(hidden, 1, seed=next(seeds))
        )

    def _window(self, inputs, outputs, t):
        """What the output at step t is made of, (B,F); the input at t has its effect already."""
        rows = np.concatenate((inputs[t - self.length + 1 : t + 1], outputs[t - self.length : t]), axis=-1)
        return np.ascontiguousarray(rows.transpose(1, 0, 2)).reshape(rows.shape[1], -1)

    def examples(self, data):
        """x, targets"""
        windows = [self._window(data.inputs, data.measured, t) for t in range(self.length, STEPS)]
        return np.stack(windows), data.measured[self.length :]

    def run_free(self, data):
        """The outputs after the warm-up."""
        outputs = data.measured.copy()
        for t in range(WARM_UP, STEPS):
            outputs[t], _ = self.model(self._window(data.inputs, outputs, t))
        return outputs[WARM_UP:]


def _nets(features, seeds):
    """name -> net"""
    nets = {cell: Recurrent(cell, features, seeds) for cell in RECURRENT}
    return nets | {f"window of {length}": SlidingWindow(length, features, seeds) for length in WINDOWS}


def _train(net, data, lr, updates):
    schedule = fastrnn.Cosine(updates)
    trainer = fastrnn.Trainer(net.model, fastrnn.MSE(), fastrnn.Adam(lr), schedule=schedule, clip_norm=1.0)
    x, targets = net.examples(data)
    for _ in range(updates):
        trainer.step(x, targets)


def run(seed, quick=False):
    """Train every net on both systems; of the first seed, one free-running test sequence is kept for the plot."""
    fastrnn.set_num_threads(1)
    results = {}
    for number, (problem, (make, lr)) in enumerate(PROBLEMS.items()):
        rng = np.random.default_rng((seed, number))
        seeds = iter(rng.integers(2**32, size=2 * (len(RECURRENT) + len(WINDOWS))).tolist())
        raw = make(rng, TRAINING)
        training, test = _standardised(raw, raw), _standardised(make(rng, TESTS), raw)
        outputs = {}
        for name, net in _nets(raw.inputs.shape[-1], seeds).items():
            _train(net, training, lr, 3 if quick else UPDATES)
            outputs[name] = net.run_free(test)
        results[problem] = {"nrmse": {name: nrmse(y, test.truth[WARM_UP:]) for name, y in outputs.items()}}
        if seed == SEEDS[0]:
            shown = {"truth": test.truth, "measured": test.measured[:WARM_UP]} | outputs
            results[problem]["shown"] = {name: y[:, 0, 0].astype(float).round(4).tolist() for name, y in shown.items()}
    return results


def _best(results, problem):
    """The names of the best recurrent net and of the best window, and all nets' errors, name -> one a seed."""
    names = results[0][problem]["nrmse"]
    errors = {name: [result[problem]["nrmse"][name] for result in results] for name in names}
    ranked = sorted(errors, key=lambda name: statistics.fmean(errors[name]))
    return next(n for n in ranked if n in RECURRENT), next(n for n in ranked if n not in RECURRENT), errors


def summarise(results):
    ratios, rows = {}, []
    for problem in PROBLEMS:
        net, window, errors = _best(results, problem)
        means = {name: statistics.fmean(of_seeds) for name, of_seeds in errors.items()}
        ratios[f"{problem} {means[net] / means[window]:.2f} ({net}, {window})"] = means[net] / means[window]
        rows += [
            (f"{problem}, {name}", f"{means[name]:.3f} ({', '.join(f'{error:.3f}' for error in of_seeds)})")
            for name, of_seeds in errors.items()
        ]
    rows.insert(0, ("error of the best recurrent net to the best window's", "; ".join(ratios)))
    return rows, max(ratios.values()) < 1


def draw(results, path):
    """One test sequence of each system, with the best recurrent net's and the best window's continuation."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(len(PROBLEMS), figsize=(10, 6), layout="constrained")
    for panel, problem in zip(panels, PROBLEMS, strict=True):
        shown, times = results[0][problem]["shown"], np.arange(STEPS)
        panel.plot(times, shown["truth"], color="0.6", linewidth=3, label="truth")
        panel.plot(times[:WARM_UP], shown["measured"], "k.", markersize=3, label="measured")
        for name in _best(results, problem)[:2]:
            panel.plot(times[WARM_UP:], shown[name], label=f"{name}, free-running")
        panel.axvline(WARM_UP, color="0.8", zorder=0)
        panel.set(title=problem, ylabel="standardised")
        panel.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    panels[-1].set_xlabel("steps")
    figure.savefig(path, dpi=100)
    plt.close(figure)
