"""One problem by several libraries: checked to agree, then timed in turn."""

from . import peers
from .checks import check_agreement
from .problem import Problem
from .rates import RATES
from .timing import alternate, cpus_used, progress, ratios_to


def compare(contestants, problem, work, threads, rounds, gemm=False):
    """A row of a table: time `work` by all of `contestants`, name -> `Peer`, the first being the reference.

    gemm: a product by `torch.mm` takes its turns, too. Returns what JSON can hold: ms, ratios to the first and CPUs by
    name, the largest difference of outputs and gradients, GFLOP/s of `torch.mm` or None.
    """
    what = f"{problem.cell} {work} ({problem.shape}) {problem.dtype}, threads: {threads}"
    error = check_agreement({name: peer.results(work) for name, peer in contestants.items()}, problem.dtype, what)
    calls = {name: getattr(peer, work) for name, peer in contestants.items()}
    if gemm:
        calls["torch.mm"] = RATES["torch.mm"](problem.dtype, threads)
    timings = alternate(calls, rounds)
    row = {
        "cell": problem.cell,
        "shape": problem.shape,
        "dtype": problem.dtype,
        "threads": threads,
        "work": work,
        "ms": {name: timing.seconds * 1e3 for name, timing in timings.items() if name in contestants},
        "ratios": ratios_to(timings, next(iter(contestants))),
        "cpus": cpus_used(timings, threads),
        "error": error,
        "flops": problem.flops(work),
        "mm_gflops": calls["torch.mm"].flops / timings["torch.mm"].seconds / 1e9 if gemm else None,
    }
    progress(f"  {what}: " + ", ".join(f"{name} {ms:.3g} ms" for name, ms in row["ms"].items()))
    return row


def compare_all(names, cells, shapes, works, *, threads, rounds, dtype="float32", gemm=False, lengths=None):
    """Rows of all combinations of cells, shapes and works; libraries that are missing are left out.

    lengths: of the sequences in every batch. gemm: see `compare`, for training alone.
    """
    rows = []
    for cell in cells:
        for shape in shapes:
            problem = Problem(cell, shape, dtype, lengths)
            for work in works:
                contestants = peers.make_all(names, problem, threads, work)
                rows.append(compare(contestants, problem, work, threads, rounds, gemm and work == "train"))
    return rows
