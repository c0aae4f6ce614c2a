"""A recurrent policy in a simulator: the worked example's compiled episodes against loops over PyTorch's cells."""

import importlib.util
import math
import pathlib
import sys

import numpy as np

from .. import child, peers
from ..checks import Void, difference
from ..report import busy_note, judge_limit, ratio, table, threads_text
from ..timing import alternate, cpus_used, progress, ratios_to
from . import THREADS

TITLE = "A recurrent policy in a simulator: GRU, H = 16"
_CANDIDATES = 128
_EPISODES = (1, 8)  # of each candidate, side by side
_STEPS = 100  # of an episode
_LEAST = 1.0  # million steps a second
_MOST_DIFFERENCE = 1e-3  # of the carts at the end, relative: a pole lets differences grow
_EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "evolve_policy.py"
_TITLES = {
    "fastrnn": "compiled as one",
    "population": "PyTorch, all policies at once",
    "policy": "`nn.GRUCell`, one policy, all episodes at once",
    "single": "`nn.GRUCell`, one episode",
}


def _load_example():
    spec = importlib.util.spec_from_file_location("evolve_policy", _EXAMPLE)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where Numba's cache looks for it
    spec.loader.exec_module(module)
    return module


def _see(example, carts):
    import torch

    return torch.stack([carts[..., 0] / example.TRACK, carts[..., 2] / example.LEANING], -1).float()


def _push(carts, action):
    """`evolve_policy.push` for all `carts` (…,4) at once, given the policies' `action` (…,1)."""
    import torch

    _, v, angle, spin = carts.unbind(-1)
    force = 10 * torch.tanh(action[..., 0].double())
    sine, cosine = torch.sin(angle), torch.cos(angle)
    thrust = (force + 0.05 * spin * spin * sine) / 1.1
    angular = (9.8 * sine - cosine * thrust) / (0.5 * (4 / 3 - 0.1 * cosine * cosine / 1.1))
    return carts + 0.02 * torch.stack([v, thrust - 0.05 * angular * cosine / 1.1, spin, angular], -1)


def _population_call(example, policy, population, starts):
    """A policy of its own for each candidate, all in one batched product: what no module of PyTorch does."""
    import torch

    shapes = policy.parameters.shapes.values()
    sizes = [int(np.prod(shape)) for shape in shapes]
    tensors = [
        torch.from_numpy(part.reshape(len(population), *shape).copy())
        for part, shape in zip(np.split(population, np.cumsum(sizes)[:-1], 1), shapes, strict=True)
    ]
    w_ih, w_hh, w = (tensors[i].transpose(1, 2).contiguous() for i in (0, 1, 4))
    b_ih, b_hh, b = (tensors[i][:, None] for i in (2, 3, 5))
    units = example.UNITS

    def call():
        with torch.inference_mode():
            carts = torch.from_numpy(starts).expand(len(population), -1, -1)
            h = torch.zeros(*carts.shape[:2], units)
            for _ in range(_STEPS):
                x, u = torch.baddbmm(b_ih, _see(example, carts), w_ih), torch.baddbmm(b_hh, h, w_hh)
                r, z = torch.sigmoid(x[..., : 2 * units] + u[..., : 2 * units]).chunk(2, -1)
                n = torch.tanh(x[..., 2 * units :] + r * u[..., 2 * units :])
                h = torch.lerp(n, h, z)
                carts = _push(carts, torch.baddbmm(b, h, w))
        return carts[0].numpy()

    return call


def _modules(policy):
    import torch

    cell, linear = torch.nn.GRUCell(2, policy.layers[0].hidden_size), torch.nn.Linear(policy.layers[0].hidden_size, 1)
    for module, layer in zip((cell, linear), policy.layers, strict=True):
        module.load_state_dict({n.removesuffix("_l0"): torch.from_numpy(a) for n, a in layer.state_dict().items()})
    return cell, linear


def _policy_call(example, policy, starts):
    """One policy for all episodes: less work than the others', whose candidates have weights of their own."""
    import torch

    cell, linear = _modules(policy)

    def call():
        with torch.inference_mode():
            carts, h = torch.from_numpy(np.tile(starts, (_CANDIDATES, 1))), None
            for _ in range(_STEPS):
                h = cell(_see(example, carts), h)
                carts = _push(carts, linear(h))
        return carts[: len(starts)].numpy()

    return call


def _single_call(example, policy, starts):
    """One episode of one policy; the cart is moved by the example's compiled function."""
    import torch

    cell, linear = _modules(policy)

    def call():
        with torch.inference_mode():
            cart, h = starts[0].copy(), None
            for _ in range(_STEPS):
                seen = torch.tensor([[cart[0] / example.TRACK, cart[2] / example.LEANING]], dtype=torch.float32)
                h = cell(seen, h)
                example.push(cart, 10 * math.tanh(linear(h).item()))
        return cart[np.newaxis]

    return call


def measure(episodes, threads, rounds):
    """Million steps a second by name, of policies that balance all their poles to the end."""
    peers.load(("torch",))
    example = _load_example()
    policy = example.make_policy()
    example.evolve(policy, 40)
    parameters, starts = policy.parameters_to_vector(), example.draw_starts(episodes, np.random.default_rng(1))
    noise = np.random.default_rng(0).standard_normal((_CANDIDATES, parameters.size), np.float32)
    noise[0] = 0
    population = parameters + 0.01 * noise
    simulator = example.Simulator(policy, _CANDIDATES)
    if (simulator.durations(population, starts, _STEPS) < _STEPS).any():
        raise Void("a pole has fallen")
    carts = starts.copy()
    weights = [layer.kernel_weights() for layer in policy.layers]
    example.play(*weights, carts, _STEPS, np.empty(episodes, np.int64))
    calls = {"fastrnn": lambda: simulator.durations(population, starts, _STEPS)}
    error = None
    try:
        peers.module("torch")
    except peers.Unavailable:
        pass
    else:
        import torch

        torch.set_num_threads(threads)
        calls["population"] = _population_call(example, policy, population, starts)
        calls["policy"] = _policy_call(example, policy, starts)
        calls["single"] = _single_call(example, policy, starts)
        results = [{"carts": call()} for name, call in calls.items() if name != "fastrnn"]
        error = max(difference(ours, {"carts": carts[: len(ours["carts"])]}) for ours in results)
        if not error <= _MOST_DIFFERENCE:
            raise Void(f"carts differ by {error:.1e}")
    timings = alternate(calls, rounds)
    steps = {name: _STEPS * (1 if name == "single" else _CANDIDATES * episodes) for name in calls}
    rates = {name: steps[name] / timing.seconds / 1e6 for name, timing in timings.items()}
    ratios = {n: r * steps["fastrnn"] / steps[n] for n, r in ratios_to(timings, "fastrnn").items()}
    progress(f"  {episodes} episodes, {threads} threads: " + ", ".join(f"{n} {rate:.3g}" for n, rate in rates.items()))
    return {
        "episodes": episodes,
        "threads": threads,
        "rates": rates,
        "ratios": ratios,
        "error": error,
        "cpus": cpus_used(timings, threads),
    }


def run(options):
    return [
        child.run(measure, threads, episodes=episodes, threads=threads, rounds=options.rounds)
        for episodes in _EPISODES
        for threads in (THREADS, 1)
    ]


def render(data):
    names = [name for name in _TITLES if any(name in row["rates"] for row in data)]
    body = [
        [
            str(row["episodes"]), str(row["threads"]), *(row["rates"].get(name) for name in names),
            *(ratio(row["ratios"][name]) if name in row["ratios"] else "–" for name in names[1:]),
        ]
        for row in data
    ]  # fmt: skip
    header = [
        "episodes", "threads", *(f"{_TITLES[name]}, M/s" for name in names),
        *(f"ours / {_TITLES[name]}" for name in names[1:]),
    ]  # fmt: skip
    intro = [
        f"Million steps a second of simulator and policy: {_CANDIDATES} policies with weights of their own, each with",
        f"some episodes of {_STEPS} steps side by side, as in `examples/evolve_policy.py`. PyTorch goes step by step",
        "in Python: all policies and episodes in batched products (`torch.baddbmm`); one policy for as many episodes,",
        "which is less work; and one episode of one policy. It does not look whether a pole has fallen; ours does.",
        "",
    ]
    return [*intro, *table(header, body), *busy_note(data)]


def verdicts(data):
    for row in data:
        question = f"simulator and policy, {row['episodes']} at once, {threads_text(row['threads'])}"
        yield judge_limit(question, _LEAST, row["rates"]["fastrnn"], " million steps/s", at_least=True)
