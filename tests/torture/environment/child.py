"""What a process does under test: `python child.py PREPARATION WHAT REPORT`, with `tiny.py` beside it.

PREPARATION is Python code that runs first. The JSON file REPORT tells of the results' bits, and of warnings.
"""

import hashlib
import json
import os
import pathlib
import sys
import warnings


def main(preparation, what, report):
    folder = pathlib.Path(report).parent
    exec(preparation)
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # not there under -I
    with warnings.catch_warnings(record=True) as caught:
        if "error" not in sys.warnoptions:
            warnings.simplefilter("always")
        found = {"net": train, "pass": infer, "all": train_all, "tiny": run_tiny}[what](folder)
        found["warnings"] = [f"{w.category.__name__}: {w.message}" for w in caught]
    pathlib.Path(report).write_text(json.dumps(found))


def digest(*arrays):
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def train(folder):
    """A little training, inference with the result, and the same from a file, whose name is not ASCII."""
    import numpy as np

    import fastrnn

    model = fastrnn.Sequential(fastrnn.RNN(3, 20, seed=0), fastrnn.Last(), fastrnn.Linear(20, 2, seed=1))
    trainer = fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.SGD(0.1), seed=0)
    rng = np.random.default_rng(0)
    x, targets = rng.standard_normal((7, 5, 3), np.float32), rng.standard_normal((5, 2), np.float32)
    found = {"losses": [trainer.step(x, targets)[0] for _ in range(3)]}
    y = model.forward(x)[0]
    found["bits"] = digest(*model.state_dict().values(), y)
    path = os.path.join(os.fsencode(folder), "Netz größer.safetensors".encode())
    try:
        fastrnn.save(model, os.fsdecode(path))
        found["file"] = digest(*fastrnn.load(os.fsdecode(path)).state_dict().values(), y)
    except ImportError as error:
        found["file"] = str(error)
    return found


def infer(folder):
    """A forward pass alone, whose kernels are compiled in some seconds."""
    import numpy as np

    import fastrnn

    x = np.random.default_rng(0).standard_normal((7, 5, 3), np.float32)
    y = fastrnn.RNN(3, 20, seed=0).forward(x)[0]
    return {"bits": digest(y), "y": y.astype(float).ravel().tolist()}


def train_all(folder):
    """Numbers of a net of several kinds of layers: gradients, some updates, and inference, also with a file's model."""
    import numpy as np

    import fastrnn

    layers = fastrnn.Embedding(9, 5, seed=0), fastrnn.LSTM(5, 20, seed=1), fastrnn.Tanh(), fastrnn.GRU(20, 13, seed=2)
    model = fastrnn.Sequential(*layers, fastrnn.Linear(13, 9, seed=3))
    rng = np.random.default_rng(0)
    x, targets = rng.integers(0, 9, (2, 17, 6))
    loss, workspace = fastrnn.CrossEntropy(), model.workspace(17, 6)
    y, _ = model.forward(x, workspace=workspace)
    found = {"forward": y.copy()}
    model.zero_grad()
    model.backward(loss(y, targets)[1], workspace=workspace)
    found["gradients"] = model.gradients_to_vector()
    trainer = fastrnn.Trainer(model, loss, fastrnn.SGD(0.1, momentum=0.9), clip_norm=1.0)
    found["losses"] = np.array([trainer.step(x, targets)[0] for _ in range(8)])
    path = os.path.join(os.path.dirname(folder), "all.safetensors")
    if os.path.exists(path):  # that of the process before
        found["of the other's file"] = fastrnn.load(path).forward(x)[0]
    else:
        fastrnn.save(model, path)
        found["of the other's file"] = model.forward(x)[0]
    own = os.path.join(folder, "own.safetensors")
    fastrnn.save(model, own)
    found["parameters"] = model.parameters_to_vector()
    bits = digest(model.forward(x)[0]), digest(fastrnn.load(own).forward(x)[0])
    return {"numbers": {name: a.astype(float).ravel().tolist() for name, a in found.items()}, "bits": bits}


def run_tiny(folder):
    """All tiny kernels, in both precisions and an order of this process's own."""
    import random

    import numpy as np
    from tiny import KERNELS

    jobs = [(number, dtype) for number in range(len(KERNELS)) for dtype in ("float32", "float64")]
    random.shuffle(jobs)
    raised, wrong = 0, []
    for number, dtype in jobs:
        x = np.arange(100, dtype=dtype)
        out = np.empty_like(x)
        try:
            KERNELS[number](x, out)
        except RuntimeWarning:  # where warnings are errors; things must be usable afterwards
            raised += 1
            KERNELS[number](x, out)
        if not np.array_equal(out, x * number + np.arange(100)):
            wrong.append((number, dtype))
    hits = sum(sum(kernel.stats.cache_hits.values()) for kernel in KERNELS)
    return {"wrong": wrong, "raised": raised, "hits": hits, "jobs": len(jobs), "folder": KERNELS[0].stats.cache_path}


if __name__ == "__main__":
    main(*sys.argv[1:])
