"""Write golden files of the fastrnn that runs this: a model, a checkpoint, and what came of both.

    python tests/data/make_files.py NAME

<NAME>.model.safetensors and <NAME>.checkpoint.safetensors are what a user of that version has on disk;
<NAME>.npz has the model's input and output (x, y), and the losses of the updates after the checkpoint (losses).
The names say which version wrote them. `first`: commit b8eb9f1, before 0.1.0, whose checkpoints know of no rules and no
non-finite gradients. `strict`: the first that refuses entries it does not know.
"""

import pathlib
import sys

import numpy as np

import fastrnn

HERE = pathlib.Path(__file__).parent
UPDATES = 6  # before the checkpoint, and after it: two a batch


def model():
    """One layer of each kind that there has been from the beginning."""
    return fastrnn.Sequential(
        fastrnn.Embedding(7, 3, seed=1),
        fastrnn.LSTM(3, 4, num_layers=2, dropout=0.25, seed=2),
        fastrnn.GRU(4, 4, seed=3),
        fastrnn.RNN(4, 5, nonlinearity="relu", seed=4),
        fastrnn.Tanh(),
        fastrnn.Linear(5, 7, seed=5),
    )


def trainer():
    """A trainer of it, whose state is carried from batch to batch."""
    return fastrnn.Trainer(
        model(), fastrnn.CrossEntropy(), fastrnn.Adam(0.01), bptt=fastrnn.bptt.Truncated(4), clip_norm=1.0, seed=6
    )


def batches():
    """Its batches."""
    return fastrnn.data.TokenStream(np.arange(300) ** 2 % 7, 3, 8)


def updates(job, stream):
    """The losses of `UPDATES` more updates."""
    stop = job.updates + UPDATES
    history = job.fit(stream, callbacks=lambda job, record: job.updates >= stop, progress=False)
    return [record["loss"] for record in history]


def main():
    name = sys.argv[1]
    job, stream = trainer(), batches()
    updates(job, stream)
    job.save_checkpoint(HERE / f"{name}.checkpoint.safetensors", extra={"note": [1, 2.5, None]})
    fastrnn.save(job.model, HERE / f"{name}.model.safetensors")
    x = np.arange(12).reshape(4, 3) % 7
    np.savez_compressed(HERE / f"{name}.npz", x=x, y=job.model.forward(x)[0], losses=updates(job, stream))


if __name__ == "__main__":
    main()
