"""A recurrent policy balances a pole whose velocities it does not see, and learns it by evolution.

A cart runs on a track and carries a pole that falls over unless somebody pushes the cart (Barto, Sutton and Anderson
1983). The policy sees where the cart is and how the pole leans, but not how fast either moves (Wieland 1991): what it
needs to know besides has to be in the state of its GRU. It learns by an evolution strategy (Salimans et al. 2017,
"Evolution Strategies as a Scalable Alternative to Reinforcement Learning"): no gradients, but a great many episodes.

Simulator and policy are compiled as one: `fastrnn.kernels` are called from the same `@njit` function that moves the
cart, and candidates run in parallel.

    python examples/evolve_policy.py

It prints the durations of episodes and the steps a second, and draws learning and an episode (with Matplotlib).
"""

import argparse
import math
import time

import numba
import numpy as np
from numba import njit, prange

import fastrnn
from fastrnn import kernels, plot

UNITS, OBSERVATIONS, ACTIONS = 16, 2, 1
LIMIT = 500  # steps, after which an episode ends well
TRACK, LEANING = 2.4, math.radians(12)  # beyond which it ends badly


@njit(cache=True)
def push(cart, force):
    """Move `cart` (4,), its position, velocity, the pole's angle and angular velocity, by a time step of 20 ms."""
    x, v, angle, spin = cart
    sine, cosine = math.sin(angle), math.cos(angle)
    thrust = (force + 0.05 * spin * spin * sine) / 1.1  # a pole of 0.1 kg, 1 m long, on a cart of 1 kg
    angular = (9.8 * sine - cosine * thrust) / (0.5 * (4 / 3 - 0.1 * cosine * cosine / 1.1))
    cart[0] = x + 0.02 * v
    cart[1] = v + 0.02 * (thrust - 0.05 * angular * cosine / 1.1)
    cart[2] = angle + 0.02 * spin
    cart[3] = spin + 0.02 * angular


@njit(cache=True)
def play(gru, dense, carts, limit, durations):
    """Balance poles by one policy, in some episodes side by side: `carts` (E,4) are moved, `durations` (E,) written.

    gru, dense: weights of the policy's layers. Returns the number of steps that were taken.
    """
    episodes, units = carts.shape[0], gru.recurrent.shape[1]
    seen = np.zeros((episodes, OBSERVATIONS), gru.input.dtype)
    h = np.zeros((episodes, units), gru.input.dtype)
    action = np.empty((episodes, ACTIONS), gru.input.dtype)
    durations[:] = 0
    taken = 0
    for t in range(limit):
        before = taken
        for e in range(episodes):
            seen[e, 0], seen[e, 1] = carts[e, 0] / TRACK, carts[e, 2] / LEANING
        kernels.gru_step(gru, seen, h)
        kernels.dense_step(dense, h, action)
        for e in range(episodes):
            if durations[e] == t:  # it still stands
                push(carts[e], 10 * math.tanh(action[e, 0]))
                taken += 1
                if abs(carts[e, 0]) < TRACK and abs(carts[e, 2]) < LEANING:
                    durations[e] = t + 1
        if taken == before:
            break
    return taken


@njit(cache=True, parallel=True)
def play_all(population, split, gru, dense, starts, limit, durations):
    """`play` of each candidate, in parallel; returns the number of steps that were taken.

    population (N,n): parameters of the policies, those of the GRU first, `split` of them. gru, dense: replicas of the
    weights, one for each candidate. starts (E,4), the same for all; durations (N,E).
    """
    taken = 0
    for n in prange(population.shape[0]):
        own_gru, own_dense = kernels.replica(gru, n), kernels.replica(dense, n)
        kernels.pack(population[n][:split], own_gru)
        kernels.pack(population[n][split:], own_dense)
        taken += play(own_gru, own_dense, starts.copy(), limit, durations[n])
    return taken


def make_policy(seed: int = 0) -> fastrnn.Sequential:
    """The network: a GRU, and a linear layer that gives the force."""
    return fastrnn.Sequential(fastrnn.GRU(OBSERVATIONS, UNITS, seed=seed), fastrnn.Linear(UNITS, ACTIONS, seed=seed))


class Simulator:
    """Plays the episodes of `candidates` policies with the layers of `policy`."""

    def __init__(self, policy, candidates: int):
        gru, dense = policy.layers
        self.split = gru.num_parameters
        self.gru = kernels.replicate(gru.kernel_weights(), candidates)
        self.dense = kernels.replicate(dense.kernel_weights(), candidates)
        self.taken, self.seconds = 0, 0.0

    def durations(self, population: np.ndarray, starts: np.ndarray, limit: int = LIMIT) -> np.ndarray:
        """Steps (N,E) that each of the N candidates in `population` (N,n) kept the poles up from `starts` (E,4)."""
        durations = np.empty((len(population), len(starts)), np.int64)
        begin = time.perf_counter()
        self.taken += play_all(population, self.split, self.gru, self.dense, starts, limit, durations)
        self.seconds += time.perf_counter() - begin
        return durations


def draw_starts(episodes: int, rng: np.random.Generator) -> np.ndarray:
    """Carts (E,4) that stand nearly still, with their poles nearly upright."""
    return rng.uniform(-0.05, 0.05, (episodes, 4))


def evolve(policy, generations: int, *, pairs: int = 64, episodes: int = 8, sigma: float = 0.1, lr: float = 0.05,
           seed: int = 0, report=None) -> tuple[np.ndarray, Simulator]:  # fmt: skip
    """Train `policy`; returns the mean durations (generations,3) of all, of the best and of the middle candidate.

    Every generation has `pairs` of candidates on either side of the present parameters, and moves these by the
    candidates' ranks; the last candidate is the present parameters themselves, which have no share in it.
    report: called with the generation's number and its durations.
    """
    rng = np.random.default_rng(seed)
    middle = policy.parameters_to_vector()
    mean, square_mean = np.zeros_like(middle), np.zeros_like(middle)
    simulator = Simulator(policy, 2 * pairs + 1)
    history = np.empty((generations, 3))
    for generation in range(generations):
        noise = rng.standard_normal((pairs, middle.size), dtype=np.float32)
        noise = np.concatenate([noise, -noise, np.zeros_like(noise[:1])])
        durations = simulator.durations(middle + sigma * noise, draw_starts(episodes, rng)).mean(1)
        history[generation] = durations[:-1].mean(), durations[:-1].max(), durations[-1]
        if report:
            report(generation, history[generation])
        ranks = durations[:-1].argsort().argsort() / (2 * pairs - 1) - 0.5
        slope = (ranks.astype(np.float32) @ noise[:-1]) / (2 * pairs * sigma)
        kernels.adam_update(middle, -slope, mean, square_mean, generation + 1, lr)
    policy.vector_to_parameters(middle)
    return history, simulator


def record(policy, start: np.ndarray, limit: int = LIMIT) -> np.ndarray:
    """One episode step by step, in Python: position, angle and force (T,3)."""
    cart, state, steps = start.copy(), None, []
    while len(steps) < limit and abs(cart[0]) < TRACK and abs(cart[2]) < LEANING:
        seen = np.array([cart[0] / TRACK, cart[2] / LEANING], np.float32)
        action, state = policy.step(seen, state)
        force = 10 * math.tanh(action[0])
        steps.append((cart[0], cart[2], force))
        push(cart, force)
    return np.array(steps)


def speed(policy, candidates: int = 128, episodes: int = 8, seconds: float = 1.0) -> dict[int, float]:
    """Steps a second by the number of threads, of episodes that `policy` can play to the end."""
    simulator = Simulator(policy, candidates)
    population = np.tile(policy.parameters_to_vector(), (candidates, 1))
    starts = draw_starts(episodes, np.random.default_rng(0))
    before, rates = numba.get_num_threads(), {}
    for threads in sorted({1, min(2, before), before}):
        numba.set_num_threads(threads)
        simulator.durations(population, starts)
        simulator.taken, simulator.seconds = 0, 0.0
        while simulator.seconds < seconds:
            simulator.durations(population, starts)
        rates[threads] = simulator.taken / simulator.seconds
    numba.set_num_threads(before)
    return rates


def draw(figure, history: np.ndarray, steps: np.ndarray) -> None:
    """Learning and an episode, into a figure."""
    left, right = figure.subplots(1, 2)
    labels = "mean of the candidates", "best candidate", "present parameters"
    for column, label in zip(history.T, labels, strict=True):
        left.plot(column, label=label)
    left.set(xlabel="generation", ylabel="steps balanced", title="Learning", ylim=(0, 1.05 * LIMIT))
    left.legend(loc="lower right")
    seconds = 0.02 * np.arange(len(steps))
    right.plot(seconds, steps[:, 0], label="position / m")
    right.plot(seconds, np.degrees(steps[:, 1]), label="angle / degrees")
    right.plot(seconds, steps[:, 2] / 10, label="force / 10 N", linewidth=0.6)
    right.set(xlabel="time / s", title="An episode")
    right.legend(loc="upper right")


def main(arguments: list[str] | None = None) -> float:
    """Evolve a policy, and test it; returns the mean number of steps it balances, of 500."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--generations", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=64, help="of candidates in a generation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1.0, help="to measure each speed for")
    parser.add_argument(
        "--plot", metavar="FILE", default="evolve_policy.png", help="picture to write (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    figure = plot.new_figure("this example", 10, 4)
    policy = make_policy(options.seed)

    def report(generation, durations):
        if generation % 10 == 9 or generation == options.generations - 1:
            print("generation {:4}: balanced {:5.1f} steps, the best {:5.1f}, the present {:5.1f}".format(
                generation + 1, *durations))  # fmt: skip

    history, simulator = evolve(policy, options.generations, pairs=options.pairs, seed=options.seed, report=report)
    print(f"{simulator.taken:,} steps of simulator and policy in {simulator.seconds:.1f} s, compilation included")
    starts = draw_starts(100, np.random.default_rng(options.seed + 1))
    tested = Simulator(policy, 1).durations(policy.parameters_to_vector()[np.newaxis], starts)[0]
    ended = np.mean(tested == LIMIT)
    print(f"100 fresh episodes: {tested.mean():.1f} of {LIMIT} steps on average, {ended:.0%} to the end")
    for episodes in (1, 8):
        for threads, rate in speed(policy, episodes=episodes, seconds=options.seconds).items():
            print(f"{rate / 1e6:5.1f} million steps a second, {episodes} episode(s) a candidate, {threads} thread(s)")
    draw(figure, history, record(policy, starts[0]))
    plot.save(figure, options.plot)
    print(f"picture: {options.plot}")
    return float(tested.mean())


if __name__ == "__main__":
    main()
