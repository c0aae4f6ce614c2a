"""`fastrnn classify`: train a classifier of sequences, or predict with one."""

import csv
import io
import os
from typing import NamedTuple

import numpy as np

from .. import plot, storage
from ..layers import Dropout, Linear
from ..model import Sequential
from . import npz
from .common import (
    CommandError,
    Progress,
    add_json,
    add_threads,
    check_output,
    integer,
    number,
    report,
    require,
    say,
    styled,
    use_threads,
)

_SHOWN = 20  # classes, at most, of a confusion matrix in text
_TRAINING = (  # options that --model leaves without a meaning
    "cell", "hidden_size", "layers", "bidirectional", "dropout", "pooling", "epochs", "patience", "batch_size", "lr",
    "balanced", "seed", "held_out", "plot",
)  # fmt: skip


def add_parser(commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "classify",
        help="train a classifier of sequences, or predict with one",
        description="Train a recurrent net that tells the class of a sequence, judge it on held-out sequences, and "
        f"save it; or, with --model, predict with a saved one. In the .npz file, {npz.LAYOUT}",
    )
    parser.add_argument("file", metavar="FILE", help=".npz file of sequences")
    parser.add_argument(
        "--model", metavar="MODEL", help="predict with this model, as CSV: classes and probabilities; y may be missing"
    )
    parser.add_argument(
        "--out", metavar="PATH",
        help="the model file (default: FILE's name with -model.safetensors, here), or the CSV file of predictions "
        "(default: stdout)",
    )  # fmt: skip

    group = parser.add_argument_group("net and training")
    group.add_argument("--cell", choices=("lstm", "gru", "rnn"), default="gru", help="recurrent layer")
    group.add_argument("--hidden-size", type=integer(1), default=64, metavar="N", help="units of it")
    group.add_argument("--layers", type=integer(1), default=1, metavar="N", help="recurrent layers")
    group.add_argument("--bidirectional", action="store_true", default=False, help="read in both directions")
    group.add_argument(
        "--dropout", type=number(minimum=0, below=1), default=0.0, metavar="P", help="between layers and at the end"
    )
    group.add_argument(
        "--pooling", choices=("last", "mean", "max"), default="last", help="what becomes of a sequence's steps"
    )
    group.add_argument("--epochs", type=integer(1), default=50, metavar="N", help="passes over the data, at most")
    group.add_argument("--patience", type=integer(1), metavar="N",
        help="stop after so many epochs without a better accuracy on a tenth of the training data (default: never)",
    )  # fmt: skip
    group.add_argument("--batch-size", type=integer(1), default=64, metavar="N", help="sequences side by side")
    group.add_argument("--lr", type=number(above=0), default=0.01, metavar="X", help="learning rate at its peak")
    group.add_argument("--balanced", action="store_true", default=False, help="let rare classes weigh more")
    group.add_argument("--seed", type=integer(0), default=0, metavar="N", help="of all that is random")

    group = parser.add_argument_group("results and machine")
    group.add_argument("--held-out", type=number(above=0, below=1), default=0.2, metavar="P", help="share to judge by")
    group.add_argument("--plot", metavar="PATH", help="draw the confusion matrix into this PNG")
    add_json(group)
    add_threads(group)
    parser.set_defaults(run=run, untouched={name: parser.get_default(name) for name in _TRAINING})


def run(arguments) -> None:
    """Train and save, or predict."""
    use_threads(arguments.threads)
    require("sklearn", "a classifier", "sklearn")
    require("safetensors", "a model file")
    if arguments.out is not None:
        check_output("--out", arguments.out)
    if arguments.model is None:
        _train(arguments)
        return
    for name, default in arguments.untouched.items():
        if getattr(arguments, name) != default:
            raise CommandError(f"--{name.replace('_', '-')} is for training: it can't be given with --model")
    _predict(arguments)


# ---- training ----


def _train(arguments):
    from sklearn.model_selection import train_test_split

    from ..estimators import SequenceScaler
    from ..estimators.base import outputs
    from ..estimators.labels import likeliest

    if arguments.plot is not None:
        check_output("--plot", arguments.plot)
        plot.new_figure("--plot", 1, 1)  # better known before than after the work
    path = arguments.out or f"{os.path.splitext(os.path.basename(arguments.file))[0]}-model.safetensors"
    check_output("--out", path)
    x, y = npz.read(arguments.file, labelled=True)
    _check_classes(arguments.file, y)
    kept, apart = train_test_split(
        np.arange(len(x)), test_size=arguments.held_out, stratify=y, random_state=arguments.seed
    )
    train, test = x.take(kept), x.take(apart)
    scaler = SequenceScaler().fit(list(train))
    classifier = _fitted(arguments, scaler.transform(list(train)), y[kept])
    scaled = test.with_steps(((test.steps - scaler.mean_) / scaler.scale_).astype(np.float32))
    predicted = classifier.classes_[likeliest(outputs(classifier.model_, scaled))]
    extra = {
        "task": "classify",
        "classes": classifier.classes_.tolist(),
        "mean": scaler.mean_.tolist(),
        "scale": scaler.scale_.tolist(),
    }
    storage.save(classifier.model_, path, extra=extra)
    result = _judged(y[kept], y[apart], predicted, classifier.classes_)
    result |= {"sequences": len(x), "epochs": classifier.n_iter_, "model": path}
    if arguments.plot is not None:
        labels = [str(name) for name in result["classes"]]
        plot.save(plot.confusion(np.array(result["confusion"]), labels=labels), arguments.plot)
        say(f"plot: {arguments.plot}")
    report(arguments, result, _text(result))


def _check_classes(name, y):
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2:
        raise CommandError(f"{name}: y must have two classes at least, all of it is {classes.tolist()[0]!r}")
    if counts.min() < 2:
        rare = classes[counts.argmin()].tolist()
        raise CommandError(f"{name}: class {rare!r} has one sequence alone, none could be held out")


def _fitted(arguments, X, y):
    from ..estimators import RNNClassifier

    class Shown(RNNClassifier):
        """Shows how far a fit is."""

        def _show_epoch(self, text):
            progress.show(len(self.loss_curve_) / self.epochs, text)

    patience = {} if arguments.patience is None else {"early_stopping": True, "patience": arguments.patience}
    classifier = Shown(
        arguments.cell, arguments.hidden_size, num_layers=arguments.layers, bidirectional=arguments.bidirectional,
        dropout=arguments.dropout, pooling=arguments.pooling, epochs=arguments.epochs, batch_size=arguments.batch_size,
        learning_rate=arguments.lr, schedule="one_cycle", random_state=arguments.seed,
        class_weight="balanced" if arguments.balanced else None, **patience,
    )  # fmt: skip
    with Progress("classify") as progress:
        return classifier.fit(X, y)


def _judged(train_y, y, predicted, classes):
    """How good the predictions for held-out sequences are, by name."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    names, counts = np.unique(train_y, return_counts=True)
    majority = names[counts.argmax()]
    precision, recall, _, support = precision_recall_fscore_support(y, predicted, labels=classes, zero_division=0)
    return {
        "held_out": len(y),
        "accuracy": float(np.mean(y == predicted)),
        "majority_class": majority,
        "majority_accuracy": float(np.mean(y == majority)),
        "classes": classes,
        "support": support,
        "precision": precision,
        "recall": recall,
        "confusion": confusion_matrix(y, predicted, labels=classes),
    }


def _text(result):
    names = [str(name) for name in result["classes"]]
    width = max(6, *map(len, names))
    lines = [styled(f"{'class':{width}} sequences  precision  recall", "name")]
    columns = zip(names, result["support"], result["precision"], result["recall"], strict=True)
    lines += [f"{name:{width}}{count:10,}{p:11.1%}{r:8.1%}" for name, count, p, r in columns]
    if len(names) <= _SHOWN:
        cell = max(width, len(f"{result['confusion'].max():,}")) + 1
        lines += ["", styled(f"{'true':{width}}  predicted", "name")]
        lines += [" " * (width + 1) + "".join(f"{name:>{cell}}" for name in names)]
        rows = zip(names, result["confusion"], strict=True)
        lines += [f"{name:{width}} " + "".join(f"{count:{cell},}" for count in row) for name, row in rows]
    majority = f"majority class, {result['majority_class']}: {result['majority_accuracy']:.1%}"
    lines += ["", f"model file: {result['model']}", f"{result['held_out']:,} of {result['sequences']:,} held out"]
    return "\n".join([*lines, majority, styled(f"model: {result['accuracy']:.1%}", "result")])


# ---- prediction ----


class _Saved(NamedTuple):
    """A classifier out of a file."""

    model: Sequential
    classes: np.ndarray
    mean: np.ndarray  # (F,), that features are scaled by, as `scale`
    scale: np.ndarray


def _predict(arguments):
    from ..estimators.base import outputs
    from ..estimators.labels import likeliest, probabilities

    saved = _load(arguments.model)
    x, y = npz.read(arguments.file, labelled=False)
    if x.steps.shape[1] != len(saved.mean):
        raise CommandError(
            f"{arguments.file}: X must have {len(saved.mean)} features a step for this model, got {x.steps.shape[1]}"
        )
    if y is not None and (y.dtype.kind == "U") != (saved.classes.dtype.kind == "U"):
        raise CommandError(f"{arguments.file}: y has {y.dtype}, the model's classes are {saved.classes.dtype}")
    scaled = x.with_steps(((x.steps - saved.mean) / saved.scale).astype(saved.model.dtype))
    logits = outputs(saved.model, scaled)
    shares = probabilities(logits)
    predicted = saved.classes[likeliest(logits)]
    result = {"sequences": len(x), "model": arguments.model}
    accuracy = ""
    if y is not None:
        result["accuracy"] = float(np.mean(predicted == y))
        accuracy = f"\nmodel: {result['accuracy']:.1%}"
    table = _csv(predicted, shares, saved.classes, y)
    if arguments.out is None:
        say(f"{len(x):,} sequences{accuracy}")
        report(arguments, {**result, "predictions": predicted, "probabilities": shares}, table.rstrip("\n"))
        return
    with storage.atomic_write(arguments.out) as file:
        file.write(table.encode())
    report(arguments, {**result, "predictions": arguments.out}, f"predictions: {arguments.out}{accuracy}")


def _load(path):
    """The classifier in a file that `classify` wrote.

    A stranger's net is looked at, not run: one of other layers may take any memory and time.
    """
    model, extra = storage.load(path), storage.load_extra(path)
    try:
        if extra is None or extra["task"] != "classify":
            raise ValueError("it is of something else")
        classes = np.array(extra["classes"])
        mean, scale = (np.array(extra[name], np.float64) for name in ("mean", "scale"))
        if classes.ndim != 1 or classes.dtype.kind not in "biU" or mean.ndim != 1 or mean.shape != scale.shape:
            raise ValueError("its classes or its scaling are damaged")
        if not npz.printable(classes):
            raise ValueError("its classes have names that can't be printed")
        if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError("its scaling has numbers that are not finite, or no deviation")
        if not (isinstance(model, Sequential) and model.batch_first and _is_classifier(model.layers)):
            raise ValueError("its model is of another kind")
        if model._output_features(len(mean)) != len(classes):
            raise ValueError("its model does not fit its classes")
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        text = f"its {error} is missing" if isinstance(error, KeyError) else error
        raise CommandError(f"{path} is no model that 'fastrnn classify' saved: {text}") from None
    return _Saved(model, classes, mean, scale)


def _is_classifier(layers):
    """Whether these are the layers of an `RNNClassifier`."""
    from ..estimators.base import CELLS, POOLING

    layers = [layer for layer in layers if type(layer) is not Dropout]
    kinds = [type(layer) for layer in layers]
    if not (len(kinds) == 3 and kinds[0] in CELLS.values() and kinds[1] in POOLING.values() and kinds[2] is Linear):
        return False
    return layers[0].dilation == 1  # a large one takes memory by itself


def _csv(predicted, shares, classes, y):
    """The table of predictions as text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    known = [] if y is None else [y.tolist()]
    writer.writerow(
        ["sequence", *(["true"] if known else []), "predicted", *(f"p({name})" for name in classes.tolist())]
    )
    for i, row in enumerate(zip(*known, predicted.tolist(), shares.tolist(), strict=True)):
        *labels, values = row
        writer.writerow([i, *labels, *(f"{value:.6g}" for value in values)])
    return text.getvalue()
