"""The same nets on CPUs with narrower vectors and fewer registers: other tiles and layouts, results equal to rounding.

Each runs in a process of its own, which compiles everything for the CPU it is told it has; so there is one cell each.
"""

import os
import pathlib
import platform
import subprocess
import sys

import naive
import numpy as np
import pytest

import fastrnn

STEPS, BATCH, INPUTS, HIDDEN = 18, 9, 21, 37  # odd, over several panels when vectors are narrow
LENGTHS = [18, 3, 17, 1, 16, 18, 5, 9, 2]
OUTPUTS = {"rnn_tanh": 2 * HIDDEN, "gru": 2 * HIDDEN, "lstm": 7}
TOLERANCE = {"float32": 3e-6, "float64": 1e-13}

AVX2 = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+f16c,+fma,+avx2,+bmi,+bmi2,-avx512f"
X86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 CPUs")

# environment, vector bytes it must lead to, cell, dtype
CPUS = [
    pytest.param({"FASTRNN_VECTOR_BYTES": "16"}, 16, "lstm", "float32", id="16_bytes"),
    pytest.param(
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": AVX2}, 32, "gru", "float64", id="haswell", marks=X86
    ),
    pytest.param({"NUMBA_CPU_NAME": "generic"}, 16, "rnn_tanh", "float32", id="generic", marks=X86),
]


def make_model(kind, dtype):
    """Two directions, and after LSTM a linear layer; parameters follow from the seed."""
    layer = {"rnn_tanh": fastrnn.RNN, "gru": fastrnn.GRU, "lstm": fastrnn.LSTM}[kind]
    layer = layer(INPUTS, HIDDEN, bidirectional=True, dtype=dtype, seed=1)
    head = [fastrnn.Linear(2 * HIDDEN, OUTPUTS["lstm"], dtype=dtype, seed=2)] if kind == "lstm" else []
    return fastrnn.Sequential(layer, *head)


def numbers(kind, dtype):
    rng = np.random.default_rng(3)
    return tuple(rng.standard_normal((STEPS, BATCH, n)).astype(dtype) for n in (INPUTS, OUTPUTS[kind]))


def run(kind, dtype):
    """Results by name, of the whole way forward and back."""
    model = make_model(kind, dtype)
    x, dy = numbers(kind, dtype)
    workspace = model.workspace(STEPS, BATCH)
    y, _ = model.forward(x, lengths=LENGTHS, workspace=workspace)
    dx, _ = model.backward(dy, workspace=workspace)
    return {"y": y, "dx": dx, **model.grad_dict()}


def run_oracle(kind, dtype):
    model = make_model(kind, dtype)
    x, dy = (a.astype(np.float64) for a in numbers(kind, dtype))
    weights = model.state_dict()
    recurrent = {n[2:]: w for n, w in weights.items() if n.startswith("0.")}
    h, _, tape = naive.recurrent_forward(kind, recurrent, x, None, LENGTHS, bidirectional=True)
    y, dh, head = h, dy, {}
    if kind == "lstm":
        y = naive.linear_forward(weights["1.weight"], weights["1.bias"], h, LENGTHS)
        dh, dweight, dbias = naive.linear_backward(weights["1.weight"].astype(np.float64), h, dy, LENGTHS)
        head = {"1.weight": dweight, "1.bias": dbias}
    dx, _, gradients = naive.recurrent_backward(tape, dh)
    return {"y": y, "dx": dx, **{f"0.{n}": g for n, g in gradients.items()}, **head}


def assert_near(results, expected, tolerance):
    assert set(results) == set(expected)
    for name, value in expected.items():
        error = np.abs(results[name] - value).max() / np.abs(value).max()
        assert error <= tolerance, f"{name}: {error:.1e}"


@pytest.mark.parametrize("environment, vector_bytes, kind, dtype", CPUS)
def test_narrow_vectors(environment, vector_bytes, kind, dtype, tmp_path):
    ours = ("FASTRNN_VECTOR_BYTES", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")
    variables = {name: value for name, value in os.environ.items() if name not in ours} | environment
    variables |= {
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }  # fmt: skip
    path = tmp_path / "results.npz"
    process = subprocess.run(
        [sys.executable, __file__, kind, dtype, str(path)], env=variables, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    with np.load(path, allow_pickle=False) as file:
        results = {name: file[name] for name in file.files}
    assert results.pop("vector_bytes") == vector_bytes
    assert results["y"].dtype == dtype
    assert_near(results, run(kind, dtype), TOLERANCE[dtype])
    assert_near(results, run_oracle(kind, dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("value", ["8", "48", "wide", ""])
def test_narrow_vectors_refuses_other_widths(value):
    environment = dict(os.environ, FASTRNN_VECTOR_BYTES=value, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    process = subprocess.run(
        [sys.executable, "-c", "import fastrnn"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode != 0
    assert "FASTRNN_VECTOR_BYTES must be 16, 32 or 64" in process.stderr


def main(kind, dtype, path):
    from fastrnn.kernels.simd import VECTOR_BYTES

    np.savez(pathlib.Path(path), vector_bytes=VECTOR_BYTES, **run(kind, dtype))


if __name__ == "__main__":
    main(*sys.argv[1:])
