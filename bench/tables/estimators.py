"""Classifying sequences by scikit-learn's convention, against the same network in a training loop in PyTorch."""

import statistics
import time

import numpy as np

from .. import child
from ..report import Verdict, ratio, share, table
from ..timing import progress
from . import THREADS

TITLE = "Estimators: digits and speakers against PyTorch"
CELLS = ("gru", "lstm")
HIDDEN, LEARNING_RATE, CLIP_NORM = 64, 0.01, 1.0
BATCH = {"digits": 64, "vowels": 32}
EPOCHS = {"digits": 30, "vowels": 40}
GRID = {"rnnclassifier__cell": list(CELLS), "rnnclassifier__hidden_size": [32, 64]}
FOLDS = 3
WITHIN = 0.01  # of PyTorch's mean accuracy, ours has to be
# joblib gives its workers their share of the CPUs, unless these say something else.
_NO_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"))


def digits():
    """X (n,64), rows of 8 steps of 8 pixels, and y to train on, and a stratified fifth to test on."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    X, y = load_digits(return_X_y=True)
    X, test_X, y, test_y = train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)
    return (X, y), (test_X, test_y)


def vowels():
    """Lists of arrays (T_i,12), T_i from 7 to 29, and the speaker, one of nine: the data's own split of 270 and 370."""
    from sktime.datasets import load_japanese_vowels

    def part(split):
        X, y = load_japanese_vowels(split=split, return_X_y=True, return_type="df-list")
        return [frame.to_numpy() for frame in X], y.astype(int) - 1

    return part("train"), part("test")


DATA = {"digits": digits, "vowels": vowels}
FEATURES = {"digits": 8, "vowels": 12}


def pipeline(name, **settings):
    """A scaler and a classifier for one of the data sets."""
    from sklearn.pipeline import make_pipeline

    from fastrnn.estimators import RNNClassifier, SequenceScaler

    classifier = RNNClassifier(
        features_per_step=FEATURES[name], epochs=EPOCHS[name], batch_size=BATCH[name], learning_rate=LEARNING_RATE,
        clip_norm=CLIP_NORM, **settings,
    )  # fmt: skip
    return make_pipeline(SequenceScaler(FEATURES[name]), classifier)


class TorchClassifier:
    """The same network and training in PyTorch, as one writes it there; ragged batches are packed."""

    def __init__(self, name, cell, seed):
        self.features, self.epochs, self.batch = FEATURES[name], EPOCHS[name], BATCH[name]
        self.cell, self.seed = cell, seed

    def fit(self, X, y):
        import torch

        torch.manual_seed(self.seed)
        steps = np.concatenate([np.reshape(row, (-1, self.features)) for row in X])
        self.mean, self.scale = steps.mean(axis=0), steps.std(axis=0)
        self.scale[self.scale == 0] = 1
        kind = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[self.cell]
        self.net = kind(self.features, HIDDEN, batch_first=True)
        self.out = torch.nn.Linear(HIDDEN, int(y.max()) + 1)
        parameters = [*self.net.parameters(), *self.out.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
        x, lengths = self.tensors(X)
        targets = torch.from_numpy(y)
        for _ in range(self.epochs):
            for chosen in torch.randperm(len(targets)).split(self.batch):
                optimizer.zero_grad()
                logits = self.logits(x[chosen], None if lengths is None else lengths[chosen])
                torch.nn.functional.cross_entropy(logits, targets[chosen]).backward()
                torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
                optimizer.step()
        return self

    def tensors(self, X):
        """Scaled sequences (n,T,F), padded, and their lengths; None where all are the same."""
        import torch

        scaled = [
            torch.from_numpy(((np.reshape(row, (-1, self.features)) - self.mean) / self.scale).astype(np.float32))
            for row in X
        ]
        lengths = torch.tensor([len(row) for row in scaled])
        x = torch.nn.utils.rnn.pad_sequence(scaled, batch_first=True)
        return x, None if (lengths == lengths[0]).all() else lengths

    def logits(self, x, lengths):
        import torch

        if lengths is not None:
            x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, state = self.net(x)
        return self.out((state[0] if self.cell == "lstm" else state)[-1])

    def score(self, X, y):
        import torch

        with torch.inference_mode():
            return float(np.mean(self.logits(*self.tensors(X)).argmax(dim=1).numpy() == y))


def compare(name, rounds):
    """Seconds of a fit and test accuracies of both by cell, a fit a round and seed, the order changing."""
    import torch

    torch.set_num_threads(THREADS)
    (X, y), test = DATA[name]()
    rows = []
    for cell in CELLS:
        makers = {
            "fastrnn": lambda seed, cell=cell: pipeline(name, cell=cell, hidden_size=HIDDEN, random_state=seed),
            "torch": lambda seed, cell=cell: TorchClassifier(name, cell, seed),
        }
        seconds, accuracies = ({key: [] for key in makers} for _ in range(2))
        for seed in range(-1, rounds):  # the first ones warm up
            for key in sorted(makers, reverse=seed % 2 == 1):
                model = makers[key](abs(seed))
                began = time.perf_counter()
                model.fit(X, y)
                if seed >= 0:
                    seconds[key].append(time.perf_counter() - began)
                    accuracies[key].append(float(model.score(*test)))
        rows.append({"data": name, "cell": cell, "seconds": seconds, "accuracies": accuracies})
    return rows


def search(name):
    """Seconds of a grid search in two processes, the choice and its test accuracy."""
    from sklearn.model_selection import GridSearchCV

    (X, y), test = DATA[name]()
    found = GridSearchCV(pipeline(name, random_state=0), GRID, cv=FOLDS, n_jobs=2)
    began = time.perf_counter()
    found.fit(X, y)
    seconds = time.perf_counter() - began
    choice = {key.rpartition("__")[2]: value for key, value in found.best_params_.items()}
    return {"data": name, "seconds": seconds, "choice": choice, "accuracy": float(found.score(*test))}


def run(options):
    data = {"fits": [], "searches": []}
    for name in DATA:
        data["fits"] += child.run(compare, THREADS, name=name, rounds=options.rounds)
        data["searches"].append(child.run(search, THREADS, _NO_THREADS, name=name))
        progress(f"  {name}")
    return data


def _gain(row):
    seconds = row["seconds"]
    return statistics.median(b / a for a, b in zip(seconds["fastrnn"], seconds["torch"], strict=True))


def _mean(row, name):
    return statistics.fmean(row["accuracies"][name])


def render(data):
    rounds = len(data["fits"][0]["seconds"]["fastrnn"])
    intro = f"""\
scikit-learn's digits, a row of 8 pixels a step, 1,437 to train on and 360 to test; and sktime's Japanese vowels, nine
speakers, 270 sequences of 7 to 26 steps of 12 numbers to train on and 370 to test. `SequenceScaler` and
`RNNClassifier`: {HIDDEN} units, last step, Adam, learning rate {LEARNING_RATE:g}, clipped to norm {CLIP_NORM:g},
{EPOCHS["digits"]} epochs of batches of {BATCH["digits"]} for the digits, {EPOCHS["vowels"]} of {BATCH["vowels"]} for
the vowels; the same network in a training loop in PyTorch, ragged batches packed. {rounds} fits of each in turn with
different seeds, {THREADS} threads, float32: median seconds, mean accuracy on the test."""
    body = [
        [
            row["data"], row["cell"].upper(), statistics.median(row["seconds"]["fastrnn"]),
            statistics.median(row["seconds"]["torch"]), ratio(_gain(row)),
            f"{_mean(row, 'fastrnn'):.1%}", f"{_mean(row, 'torch'):.1%}",
        ]
        for row in data["fits"]
    ]  # fmt: skip
    header = ("data", "cell", "fastrnn s", "PyTorch s", "ratio", "fastrnn accuracy", "PyTorch accuracy")
    count = len(GRID["rnnclassifier__cell"]) * len(GRID["rnnclassifier__hidden_size"]) * FOLDS + 1
    grid = [
        [row["data"], row["seconds"], ", ".join(str(value) for value in row["choice"].values()), share(row["accuracy"])]
        for row in data["searches"]
    ]
    note = f"`GridSearchCV(n_jobs=2)` over cell and units, {count} fits in all, processes started included:"
    return [
        intro, "", *table(header, body), note, "", *table(("data", "s", "best", "accuracy"), grid),
    ]  # fmt: skip


def verdicts(data):
    for row in data["fits"]:
        ours, theirs = _mean(row, "fastrnn"), _mean(row, "torch")
        yield Verdict(
            f"{row['data']}, {row['cell'].upper()}: one fit against PyTorch",
            f"ratio at least 1, accuracy within {share(WITHIN)}",
            f"{_gain(row):.2f}, {ours:.1%} against {theirs:.1%}",
            _gain(row) >= 1 and ours >= theirs - WITHIN,
        )
