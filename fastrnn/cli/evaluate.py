"""`fastrnn evaluate`: how well a model predicts a file."""

from .. import corpus, language_model
from .common import CommandError, Progress, add_threads, load_model, use_threads


def add_parser(commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "evaluate",
        help="bits per byte of a file",
        description="Say how many bits a trained model needs for each byte of a file, and how many zlib -9 needs. "
        "Every byte is predicted from all before it.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file, or the folder of a run")
    parser.add_argument("file", metavar="FILE", help="text to predict")
    add_threads(parser)
    parser.set_defaults(run=run)


def run(arguments) -> None:
    """Print both figures."""
    use_threads(arguments.threads)
    model = load_model(arguments.model)
    (text,) = corpus.read_files([arguments.file])
    try:
        stream = language_model.evaluation_stream(text)
    except ValueError:
        raise CommandError(f"{arguments.file} is too short: one byte leaves nothing to predict") from None
    with Progress("evaluate") as progress:
        value = language_model.bits_per_byte(model, _Shown(stream, progress))
    print(f"zlib -9: {corpus.zlib_bits_per_byte(text):.3f} bits per byte")
    print(f"model: {value:.3f} bits per byte")


class _Shown:
    """The batches of a stream, with progress."""

    stateful = True

    def __init__(self, stream, progress):
        self._stream, self._progress = stream, progress

    def __iter__(self):
        for index, batch in enumerate(self._stream):
            yield batch
            self._progress.show((index + 1) / len(self._stream), f"batch {index + 1} of {len(self._stream)}")
