"""LSTM, GRU and tanh RNN against PyTorch: all shapes, both works, and what share of the machine's rate they reach."""

import statistics

from .. import child, peers
from ..checks import check_gradients
from ..problem import GATES, SHAPES
from ..report import (
    Verdict,
    busy_note,
    gain,
    geometric_mean,
    gflops,
    judge_ratios,
    least_and_mean,
    ratio,
    shape_text,
    share,
    significant,
    table,
    threads_text,
)

TITLE = "LSTM, GRU and tanh RNN against PyTorch"
BLOCKS = (("float32", 2), ("float32", 1), ("float64", 2))  # dtype, threads
_ENOUGH_OF_GEMM = 0.85


def measure(cells, shapes, dtype, threads, rounds):
    """Rows of `contest.compare`, and the machine's GFLOP/s by name."""
    from ..contest import compare_all
    from ..rates import measured_rates

    peers.load(("torch",))
    rows, rates = [], []
    gemm = dtype == "float32" and threads > 1
    for cell in cells:
        check_gradients(cell)
        rates.append(measured_rates(dtype, threads, rounds))
        works = ("train", "infer")
        rows += compare_all(
            ("fastrnn", "torch"), [cell], shapes, works, threads=threads, rounds=rounds, dtype=dtype, gemm=gemm
        )
    kept = {name: statistics.median(r[name] for r in rates) for name in rates[0]}
    kept["peak"] = max(r["peak"] for r in rates)
    return {"dtype": dtype, "threads": threads, "rows": rows, "rates": kept}


def run(options):
    shapes = options.choose(SHAPES)
    return [
        child.run(
            measure, threads, cells=list(GATES), shapes=shapes, dtype=dtype, threads=threads, rounds=options.rounds
        )
        for dtype, threads in BLOCKS
    ]


def _mm(block, row):
    """The `torch.mm` rate that took turns with the row, or else the block's."""
    return row["mm_gflops"] or block["rates"]["torch.mm"]


def _sections(block):
    for cell in GATES:
        works = [[r for r in block["rows"] if r["cell"] == cell and r["work"] == work] for work in ("train", "infer")]
        if works[0]:
            yield cell, *works


def render(data):
    lines = [
        "Training is forward and backward with all gradients, that of x included, the weights packed anew. PyTorch",
        "infers in `inference_mode`. GFLOP/s count the matrix products, 2 a multiply-add. `torch.mm` of 2048 takes",
        "turns with each row where float32 trains on 2 threads, else it is that of the whole block.",
        "",
    ]
    for block in data:
        rates, dtype, threads = block["rates"], block["dtype"], block["threads"]
        best = max(rates["torch.mm"], rates["numpy.dot"])
        measured = ", ".join(f"{name} {significant(rate)}" for name, rate in rates.items())
        lines += [f"GFLOP/s of the machine, {dtype}, {threads_text(threads)}: {measured}.", ""]
        for cell, train, infer in _sections(block):
            body = [
                [
                    shape_text(t), t["ms"]["fastrnn"], t["ms"]["torch"], ratio(gain(t)), significant(gflops(t)),
                    share(gflops(t) / _mm(block, t)), share(gflops(t) / best), share(gflops(t) / rates["peak"]),
                    i["ms"]["fastrnn"], i["ms"]["torch"], ratio(gain(i)), significant(gflops(i)),
                    f"{max(t['error'], i['error']):.0e}",
                ]
                for t, i in zip(train, infer, strict=True)
            ]  # fmt: skip
            ends = zip(least_and_mean([gain(r) for r in train]), least_and_mean([gain(r) for r in infer]), strict=True)
            for (label, trained), (_, inferred) in ends:
                body.append([label, "", "", ratio(trained), *[""] * 6, ratio(inferred), "", ""])
            header = (
                "T, B, I, H", "train ms", "PyTorch", "ratio", "GFLOP/s", "of torch.mm", "of the better GEMM", "of peak",
                "infer ms", "PyTorch", "ratio", "GFLOP/s", "difference",
            )  # fmt: skip
            lines += [f"### {cell}, {dtype}, {threads_text(threads)}", "", *table(header, body)]
        lines += busy_note(block["rows"])
    return lines


def verdicts(data):
    for block in data:
        dtype, threads = block["dtype"], block["threads"]
        for cell, train, infer in _sections(block):
            if dtype == "float64":
                continue
            label = f"{dtype}, {threads_text(threads)}"
            if cell == "LSTM":
                yield judge_ratios(f"LSTM train, {label}", train, 1.05, 1.8)
                yield judge_ratios(f"LSTM inference, {label}", infer, 0.97, 1.5)
                yield from _share_of_gemm(block, train, label)
                continue
            for work, rows in (("train", train), ("inference", infer)):
                yield judge_ratios(
                    f"{cell} {work}, {label}", rows, 1.3, 3,
                    excused=lambda row, block=block: gflops(row) >= _ENOUGH_OF_GEMM * _mm(block, row),
                    excuse=f" or {_ENOUGH_OF_GEMM:.0%} of GEMM",
                )  # fmt: skip
        if dtype == "float64":
            for cell, train, _ in _sections(block):
                yield judge_ratios(f"{cell} train, float64, {threads_text(threads)}", train, 1.1, 2)


def _share_of_gemm(block, rows, label):
    """LSTM training where H ≥ 256 and B ≥ 20."""
    wide = [row for row in rows if row["shape"][3] >= 256 and row["shape"][1] >= 20]
    if not wide:
        return
    rates = block["rates"]
    shares = [gflops(row) / _mm(block, row) for row in wide]
    better = max(rates["torch.mm"], rates["numpy.dot"])
    of_better = [gflops(row) / better for row in wide]
    of_peak = geometric_mean([gflops(row) / rates["peak"] for row in wide])
    yield Verdict(
        f"share of GEMM throughput (torch.mm), LSTM train, H ≥ 256, B ≥ 20, {label}",
        "every shape 75%, mean 82%",
        f"{min(shares):.0%}, mean {geometric_mean(shares):.0%}; of the better GEMM ({significant(better)} "
        f"GFLOP/s) {min(of_better):.0%}, mean {geometric_mean(of_better):.0%}; {of_peak:.0%} of peak",
        min(shares) >= 0.75 and geometric_mean(shares) >= 0.82,
    )
