"""`python -m bench`: an LSTM's training step and inference against PyTorch's, into bench/RESULTS.md."""

import argparse
import pathlib

import torch

import fastrnn

from .harness import interleaved, machine, peak_gflops
from .recurrent import GATES, SHAPES, Problem

TOLERANCE = {"float32": 1e-4, "float64": 1e-10}


def _rows(cell, shapes, dtype, peak):
    for shape in shapes:
        problem = Problem(cell, shape, dtype)
        error = problem.worst_error()
        if not error < TOLERANCE[dtype]:
            raise SystemExit(f"{cell} {shape} {dtype}: differs from PyTorch by {error:.1e}, the benchmark is void")
        ours, theirs = interleaved([problem.train, problem.peer_train])
        infer, peer_infer = interleaved([problem.infer, problem.peer_infer])
        gflops = problem.training_flops / ours / 1e9
        yield (
            f"| {', '.join(map(str, shape))} | {ours * 1e3:.2f} | {theirs * 1e3:.2f} | **{theirs / ours:.2f}** "
            f"| {gflops:.0f} | {gflops / peak:.0%} | {infer * 1e3:.2f} | {peer_infer * 1e3:.2f} "
            f"| **{peer_infer / infer:.2f}** | {error:.0e} |"
        )


def main():
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--cells", nargs="+", choices=GATES, default=["LSTM"])
    parser.add_argument("--dtypes", nargs="+", choices=TOLERANCE, default=["float32"])
    parser.add_argument("--threads", type=int, default=fastrnn.get_num_threads())
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).with_name("RESULTS.md"))
    options = parser.parse_args()
    fastrnn.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    lines = [
        "# Measured speed",
        "",
        f"`python -m bench` on {machine()}, PyTorch {torch.__version__}.",
        "Medians of interleaved calls in one process; training is forward and backward with all gradients, weights",
        "packed anew; PyTorch infers in `inference_mode`. Ratios are PyTorch's time over ours; the last column is the",
        "largest difference of outputs and gradients.",
    ]
    for dtype in options.dtypes:
        peak = peak_gflops(dtype)
        for cell in options.cells:
            lines += [
                "",
                f"## {cell}, {dtype}; peak {peak:.0f} GFLOP/s",
                "",
                "| T, B, I, H | train ms | PyTorch | ratio | GFLOP/s | of peak | infer ms | PyTorch | ratio | error |",
                "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            ]
            print("\n".join(lines[-5:]), flush=True)
            for row in _rows(cell, SHAPES, dtype, peak):
                print(row, flush=True)
                lines.append(row)
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
