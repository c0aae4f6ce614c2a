"""`fastrnn train`: train a language model of bytes or words."""

import argparse
import dataclasses
import os
import signal

from .. import corpus, language_model, words
from . import plot
from .common import (
    CHECKPOINT_FILE,
    MODEL_FILE,
    CommandError,
    add_json,
    add_threads,
    file_in_run,
    integer,
    number,
    report,
    require,
    say,
    styled,
    use_threads,
)
from .folders import RUNS_FOLDER, results_folder, stem
from .levels import LEVELS
from .training_run import Run, Settings, read_saved
from .warmup import warm_up_training

PLOT_FILE = "loss.png"

_CHECKPOINT_INTERVAL = 30.0
_SAMPLE_TEMPERATURE = 0.6
_CHANGEABLE = {"steps", "seconds"}  # on resuming; anything else would make it another run
_DEFAULTS = {"byte": {}, "word": {"embedding": 0}}  # of a level, where it has its own
_FOREIGN = {"byte": {"vocabulary"}, "word": {"sequence"}}  # what does not go with a level


def add_parser(commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "train",
        help="train a language model of bytes or words",
        description="Train a language model (embedding, recurrent layer, linear layer) on text files, or on the "
        "sources of the running Python's standard library: of bytes, by truncated backpropagation through time with "
        "carried state, or of the words of sentences, by full backpropagation through each; Adam, a one-cycle "
        "learning rate. The end of the text is held out to judge by. Ctrl-C stops and saves, and --resume goes on, to "
        "the same result as without a break.",
        argument_default=argparse.SUPPRESS,  # --resume has to tell what was said from what was not
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="text to train on (default: the standard library)")
    _add_settings(parser)
    group = parser.add_argument_group("files and machine")
    group.add_argument(
        "--out", metavar="FOLDER",
        help=f"folder for the results, without an earlier run in it (default: a new one in {RUNS_FOLDER})",
    )  # fmt: skip
    group.add_argument(
        "--resume", metavar="PATH",
        help="go on from this checkpoint, or from the one in this folder, with its settings; only --steps, --seconds "
        "and the other options of this group can be given with it",
    )  # fmt: skip
    group.add_argument(
        "--checkpoint-interval", type=number(minimum=0), metavar="S",
        help=f"seconds between checkpoints; 0 for one at the end only (default: {_CHECKPOINT_INTERVAL:g})",
    )  # fmt: skip
    add_threads(group)
    add_json(group)
    parser.set_defaults(run=run)


def _add_settings(parser):
    def option(group, name, kind, text, metavar="N"):
        default = getattr(Settings, name)
        text = text if default is None else f"{text} (default: {default:g})"
        group.add_argument(f"--{name}", type=kind, metavar=metavar, help=text)

    group = parser.add_argument_group("model")
    group.add_argument("--level", choices=tuple(LEVELS), help=f"what is predicted (default: {Settings.level})")
    option(group, "vocabulary", integer(len(words.SPECIAL) + 1), "words known at the level of words, at most")
    cells = tuple(language_model.CELLS)
    group.add_argument("--cell", choices=cells, help=f"recurrent layer (default: {Settings.cell})")
    option(
        group, "embedding", integer(0),
        "size of the embedding; 0 for none, straight into the recurrent layer, as words go if nothing is said",
    )  # fmt: skip
    option(group, "hidden", integer(1), "units of a recurrent layer")
    option(group, "layers", integer(1), "recurrent layers")
    option(group, "dropout", number(minimum=0, below=1), "dropout around the recurrent layers", "P")

    group = parser.add_argument_group("training")
    option(group, "sequence", integer(1), "steps that the gradient goes back, at the level of bytes")
    option(group, "batch", integer(1), "sequences side by side")
    option(group, "lr", number(above=0), "learning rate at its peak", "X")
    option(group, "clip", number(above=0), "norm that the gradient is clipped to", "X")
    option(group, "seed", integer(0), "of the first parameters and of dropout")
    budget = group.add_mutually_exclusive_group()
    option(budget, "steps", integer(1), "updates in all; such a run can be repeated bit for bit")
    option(budget, "seconds", number(above=0), "train for this time instead, evaluations included", "S")


def run(arguments) -> int:
    """Train, save, and show what came out. Returns the exit status."""
    options = vars(arguments)
    use_threads(options.get("threads"))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: what is asked to stop should save
        signal.signal(signal.SIGINT, signal.default_int_handler)
    require("safetensors", "a model file")
    checkpoint, saved, chosen = None, None, options.get("out")
    if chosen == "":
        raise CommandError("--out names no folder")
    given = {name: options[name] for name in Settings.__dataclass_fields__ if name in options}
    if "resume" in options:
        checkpoint = file_in_run(options["resume"], CHECKPOINT_FILE)
        saved = read_saved(checkpoint)
        settings = _resumed(saved.settings, given)
        chosen = chosen or os.path.dirname(checkpoint) or os.curdir
    else:
        files = tuple(os.path.abspath(path) for path in given.get("files", ()))
        settings = _new(given | {"files": files})
    text = corpus.load(settings.files)
    name = stem(settings.files[0]) if settings.files else "stdlib"
    taken = (MODEL_FILE, CHECKPOINT_FILE) if checkpoint is None or "out" in options else ()
    with results_folder(chosen, name, taken, "choose another --out, or go on with --resume {folder}") as folder:
        training = Run(settings, text, folder, options.get("checkpoint_interval", _CHECKPOINT_INTERVAL))
        if checkpoint is not None and saved is not None:
            training.restore(checkpoint, saved)
        return _train(training, arguments)


def _new(given):
    """The settings of a new run."""
    level = given.get("level", Settings.level)
    for name in given:
        if name in _FOREIGN[level]:
            raise CommandError(f"--{name} can't be given with --level {level}")
    return dataclasses.replace(Settings(), **_DEFAULTS[level] | given)


def _resumed(settings, given):
    """The settings of a run that goes on, perhaps with another budget."""
    for name in given:
        if name not in _CHANGEABLE:
            option = "FILE" if name == "files" else f"--{name}"
            raise CommandError(f"{option} can't be given with --resume: the checkpoint says what it is")
    for path in settings.files:
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would block, a device may have no end
            raise CommandError(f"{path}, which the checkpoint names as its text, is not a file")
    return dataclasses.replace(settings, **{"seconds": None} | given) if given else settings


def _train(training, arguments):
    text, folder, level = training.text, training.folder, training.level
    say(f"{text.name}: {level.sizes()}")
    say(f"{training.settings.cell} model with {training.model.num_parameters:,} parameters")
    if training.finished:
        say(f"this run is finished; it goes on with a larger --steps, or --seconds, beside --resume {folder}")
    else:
        warm_up_training(training.settings.cell)
    complete = training.train()
    say(f"{training.updates} updates in {training.seconds:.1f} s, saved in {folder}")
    if not complete:
        say(f"interrupted; go on with: fastrnn train --resume {folder}")
        return 130
    held_out = training.evaluate()
    training.write_history()
    _draw(training)
    sample = "".join(level.sample(training.model, _SAMPLE_TEMPERATURE, training.settings.seed))
    name, baseline = level.baseline()
    result = {
        "folder": folder,
        "level": training.settings.level,
        "parameters": training.model.num_parameters,
        "updates": training.updates,
        "seconds": training.seconds,
        level.held_out: held_out,
        "baseline": {"name": name, level.held_out: baseline},
        "sample": {"temperature": _SAMPLE_TEMPERATURE, "text": sample},
    }
    lines = [
        f"sample, at temperature {_SAMPLE_TEMPERATURE}:\n\n{sample}\n",
        f"model, checkpoint, history and loss curves: {folder}",
        f"{name}: {level.shown(baseline)}",
        styled(f"held-out: {level.shown(held_out)}", "result"),
    ]
    report(arguments, result, "\n".join(lines))
    return 0


def _draw(training):
    try:
        plot.draw(training.path(PLOT_FILE), f"fastrnn train: {training.text.name}", training.lines, training.level)
    except ImportError:
        say("no loss curves: they need the matplotlib package: pip install matplotlib (extra fastrnn[plot])")
