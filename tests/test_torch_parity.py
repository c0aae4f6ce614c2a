"""Against PyTorch over random configurations: y, final state, dx, dstate, every parameter gradient.

Run as a script, it prints the worst figures: python tests/test_torch_parity.py
"""

import contextlib
import math
import pathlib
import sys
from collections import defaultdict
from typing import NamedTuple

import naive
import numpy as np
import pytest
from numba import float32 as numba_float32

import fastrnn
from fastrnn.kernels.simd import lane_count, panel_width

torch = pytest.importorskip("torch") if __name__ != "__main__" else __import__("torch")

KINDS = ["rnn_tanh", "rnn_relu", "gru", "lstm"]
PER_KIND = 85  # random configurations, each in both dtypes
LANES = lane_count(numba_float32)
DATA = pathlib.Path(__file__).parent / "data"


class Configuration(NamedTuple):
    kind: str
    input_size: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    bias: bool
    batch_first: bool
    steps: int
    batch: int
    lengths: list[int] | None
    with_state: bool
    seed: int


# oneDNN's awkward shapes: one step; eight layers; input and hidden sizes that differ from layer to layer
AWKWARD = [(17, 34, 1, False, 1, 7), (20, 20, 8, False, 3, 12), (31, 47, 2, True, 5, 3)]


def configurations(kind):
    """The awkward shapes and `PER_KIND` random ones, always the same."""
    rng = np.random.default_rng([5, KINDS.index(kind)])
    for n, (inputs, hidden, layers, both, steps, batch) in enumerate(AWKWARD):
        yield Configuration(kind, inputs, hidden, layers, both, True, False, steps, batch, None, True, n)
    around = [LANES * n + d for n in (1, 2, 4) for d in (-1, 0, 1)] + [panel_width(np.dtype("f4")) * 2, 127, 130]
    for n in range(PER_KIND):

        def size():
            return int(rng.choice(around) if rng.random() < 0.4 else np.ceil(130 ** rng.random()))

        steps, batch = int(rng.integers(1, 24)), int(rng.integers(1, 13))
        lengths = [int(v) for v in rng.integers(1, steps + 1, batch)] if rng.random() < 0.5 else None
        layers = int(rng.choice([1, 1, 2, 3]))
        flags = [bool(v) for v in rng.random(4) < (0.4, 0.75, 0.5, 0.6)]
        yield Configuration(kind, size(), size(), layers, *flags[:3], steps, batch, lengths, flags[3], 100 + n)


def make_pair(c, dtype):
    """Our layer and PyTorch's."""
    options = {"bias": c.bias, "batch_first": c.batch_first, "bidirectional": c.bidirectional}
    if c.kind.startswith("rnn"):
        ours, theirs, options["nonlinearity"] = fastrnn.RNN, torch.nn.RNN, c.kind[4:]
    else:
        ours, theirs = getattr(fastrnn, c.kind.upper()), getattr(torch.nn, c.kind.upper())
    sizes = c.input_size, c.hidden_size, c.num_layers
    return ours(*sizes, dtype=dtype, seed=c.seed, **options), theirs(*sizes, dtype=getattr(torch, dtype), **options)


def draw(c, ours):
    """x, dy, state and dstate in float32, so that both dtypes get the same numbers."""
    rng = np.random.default_rng(c.seed)
    directions = 2 if c.bidirectional else 1
    lead = (c.batch, c.steps) if c.batch_first else (c.steps, c.batch)
    shape = (c.num_layers * directions, c.batch, c.hidden_size)
    count = 2 if c.kind == "lstm" else 1
    # a ReLU net grows by its largest eigenvalue a step, which PyTorch's range of weights keeps below 1
    arrays = [rng.standard_normal((*lead, n)) for n in (c.input_size, directions * c.hidden_size)]
    arrays += [rng.standard_normal(shape) for _ in range(2 * count)]
    bound = c.hidden_size**-0.5
    weights = {n: rng.uniform(-bound, bound, w.shape).astype(np.float32) for n, w in ours.state_dict().items()}
    x, dy, *states = (a.astype(np.float32) for a in arrays)
    return weights, x, dy, states[:count], states[count:]


def away_from_the_kink(c, weights, x, state):
    """Whether rounding can't push a unit of a ReLU net over its kink, where gradients jump, and the net isn't all but
    dead: its output would then be what cancellation left, in PyTorch's order of summation or in ours."""
    x = x.swapaxes(0, 1) if c.batch_first else x
    options = {"num_layers": c.num_layers, "bidirectional": c.bidirectional}
    y, _, tape = naive.recurrent_forward(c.kind, weights, x, state[0] if c.with_state else None, c.lengths, **options)
    z = np.abs(naive.pre_activations(tape))
    return z.min() > 1e-6 * z.max() and y.max() > 0.1 * z.max()


def prepare(c):
    """The configuration's numbers; for a ReLU net, with the first seed that is away from the kink."""
    for attempt in range(100):
        tried = c._replace(seed=c.seed + 1000 * attempt)
        numbers = draw(tried, make_pair(tried, "float32")[0])
        if c.kind != "rnn_relu" or away_from_the_kink(tried, numbers[0], numbers[1], numbers[3]):
            return numbers
    raise AssertionError(f"no seed away from the kink for {c}")


def run_ours(layer, c, x, dy, state, dstate):
    def pack(parts):
        return (tuple(parts) if len(parts) > 1 else parts[0]) if c.with_state else None

    def unpack(state):
        return state if isinstance(state, tuple) else (state,)

    workspace = layer.workspace(c.steps, c.batch)
    y, final = layer.forward(x, pack(state), lengths=c.lengths, workspace=workspace)
    results = {"y": y.copy()} | {f"final {n}": s.copy() for n, s in zip("hc", unpack(final), strict=False)}
    dstate = tuple(dstate) if len(dstate) > 1 else dstate[0]
    dx, d_initial = layer.backward(dy, dstate, workspace=workspace)
    results["dx"] = dx
    if c.with_state:
        results |= {f"initial d{n}": s for n, s in zip("hc", unpack(d_initial), strict=False)}
    return results | {f"d{n}": g for n, g in layer.grad_dict().items()}


def run_theirs(layer, c, x, dy, state, dstate):
    x = torch.tensor(x, requires_grad=True)
    state = [torch.tensor(s, requires_grad=True) for s in state] if c.with_state else None
    hx = None if state is None else tuple(state) if len(state) > 1 else state[0]
    if c.lengths is None:
        y, final = layer(x, hx)
    else:
        lengths = torch.tensor(c.lengths)
        pack = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=c.batch_first, enforce_sorted=False)
        y, final = layer(pack, hx)
        pad = torch.nn.utils.rnn.pad_packed_sequence
        y, _ = pad(y, batch_first=c.batch_first, total_length=c.steps)
    final = final if isinstance(final, tuple) else (final,)
    torch.autograd.backward([y, *final], [torch.tensor(g) for g in (dy, *dstate)])
    results = {"y": y, "dx": x.grad} | {f"final {n}": s for n, s in zip("hc", final, strict=False)}
    if state is not None:
        results |= {f"initial d{n}": s.grad for n, s in zip("hc", state, strict=False)}
    results |= {f"d{n}": p.grad for n, p in layer.named_parameters()}
    return {name: value.detach().numpy() for name, value in results.items()}


def tolerance(c, dtype, name):
    """float64: the issue's 1e-10. float32: oneDNN's 4 · (2 if backward) · ⌈log2(K·T)⌉ · eps, K the longest product."""
    if dtype == "float64":
        return 1e-10
    backward = not name.startswith(("y", "final"))
    inputs = max(c.input_size, c.hidden_size * (1 + c.bidirectional) if c.num_layers > 1 else 0)
    longest = max(inputs, c.hidden_size)
    if backward:  # through the gates, and over the batch for a weight
        longest = max(longest, naive.GATES[c.kind] * c.hidden_size, c.batch)
    return 4 * (1 + backward) * max(1, math.ceil(math.log2(longest * c.steps))) * float(np.finfo(dtype).eps)


def group(name):
    """What a tensor counts as in the figures."""
    return name.split("_l")[0]


def errors(c, dtype):
    """(tensor's name, error relative to its largest element, error as a part of the tolerance) of one configuration.

    float32 results are held against PyTorch's in float32 and, as "exact …", against its float64 ones.
    """
    weights, x, dy, state, dstate = prepare(c)
    references = {}
    for kind in sorted({dtype, "float64"}):
        ours, theirs = make_pair(c, kind)
        theirs.load_state_dict({n: torch.tensor(w.astype(kind)) for n, w in weights.items()})
        numbers = x.astype(kind), dy.astype(kind), *([s.astype(kind) for s in part] for part in (state, dstate))
        references[kind] = run_theirs(theirs, c, *numbers)
        if kind == dtype:
            ours.load_state_dict({n: w.astype(kind) for n, w in weights.items()})
            results = run_ours(ours, c, *numbers)
    for kind, expected in references.items():
        assert results.keys() == expected.keys()
        for name, value in expected.items():
            assert results[name].shape == value.shape and results[name].dtype == dtype, (name, c)
            difference, largest = np.abs(results[name] - value).max(), np.abs(value).max()
            error = 0.0 if difference == 0 else float(difference / largest) if largest else math.inf
            yield name if kind == dtype else f"exact {name}", error, error / tolerance(c, dtype, name)


def check(kind, dtype, worst):
    """Compare all configurations of a kind; returns their number, and enters the worst errors by group into `worst`."""
    count = 0
    for c in configurations(kind):
        count += 1
        for name, error, part in errors(c, dtype):
            worst[group(name)] = tuple(map(max, worst[group(name)], (error, part)))
            assert part <= 1, f"{name}: {error:.1e}, {part:.2f} of the tolerance, {c}"
    return count


def report(dtype, worst, count):
    print(f"{dtype}, {count} configurations: error relative to the largest element (part of the tolerance)")
    for name, (error, part) in sorted(worst.items()):
        print(f"  {name:18} {error:.1e} ({part:.2f})")


@contextlib.contextmanager
def one_torch_thread():
    """PyTorch's threads get in each other's way at these sizes when the machine has other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_torch_parity(kind, dtype, record_property):
    worst = defaultdict(lambda: (0.0, 0.0))
    with one_torch_thread():
        count = check(kind, dtype, worst)
    record_property("worst_error", max(error for error, _ in worst.values()))
    report(f"{kind} {dtype}", worst, count)
    assert count >= 80 and len(worst) >= 8


def test_torch_parity_golden_file_is_what_torch_says():
    """The recorded values, which stand in for PyTorch where it is missing, can be made again."""
    sys.path.insert(0, str(DATA))
    try:
        import make_golden
    finally:
        sys.path.remove(str(DATA))
    fresh = make_golden.recurrent_cases()
    with np.load(DATA / "recurrent.npz", allow_pickle=False) as file:
        assert set(file.files) == set(fresh)
        for name, value in fresh.items():
            np.testing.assert_allclose(file[name], value, rtol=0, atol=1e-13 * np.abs(value).max(), err_msg=name)


def main():
    for dtype in ("float64", "float32"):
        worst = defaultdict(lambda: (0.0, 0.0))
        with one_torch_thread():
            count = sum(check(kind, dtype, worst) for kind in KINDS)
        report(dtype, worst, count)


if __name__ == "__main__":
    main()
