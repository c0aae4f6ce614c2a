"""`fastrnn evaluate`: how well a model predicts a file."""

from .. import corpus, language_model, words
from .common import CommandError, Progress, add_threads, load_model, use_threads
from .levels import decoded, share_of_unknown

_BATCH = 32  # sentences


def add_parser(commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "evaluate",
        help="bits per byte of a file, or perplexity",
        description="Say how many bits a trained model needs for each byte of a file, and how many zlib -9 needs. "
        "Every byte is predicted from all before it. Of a word-level model, say its perplexity: every word is "
        "predicted from those before it in its sentence.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file, or the folder of a run")
    parser.add_argument("file", metavar="FILE", help="text to predict")
    add_threads(parser)
    parser.set_defaults(run=run)


def run(arguments) -> None:
    """Print the figures."""
    use_threads(arguments.threads)
    model, vocabulary = load_model(arguments.model)
    (text,) = corpus.read_files([arguments.file])
    if vocabulary is None:
        _evaluate_bytes(model, text, arguments.file)
    else:
        _evaluate_words(model, vocabulary, text, arguments.file)


def _evaluate_bytes(model, text, name):
    try:
        stream = language_model.evaluation_stream(text)
    except ValueError:
        raise CommandError(f"{name} is too short: one byte leaves nothing to predict") from None
    with Progress("evaluate") as progress:
        value = language_model.bits_per_byte(model, _Shown(stream, True, progress))
    print(f"zlib -9: {corpus.zlib_bits_per_byte(text):.3f} bits per byte")
    print(f"model: {value:.3f} bits per byte")


def _evaluate_words(model, vocabulary, text, name):
    sentences = [vocabulary.encoded(sentence) for sentence in words.sentences(decoded(text))]
    if not sentences:
        raise CommandError(f"{name} is too short: it has no words")
    batches = words.SentenceBatches(sentences, _BATCH, seed=None)
    with Progress("evaluate") as progress:
        value = language_model.perplexity(model, _Shown(batches, False, progress))
    print(f"unknown words: {100 * share_of_unknown(sentences):.1f}%")
    print(f"model: perplexity {value:.1f} per word")


class _Shown:
    """Batches, with progress; `stateful` as for `Trainer`."""

    def __init__(self, batches, stateful, progress):
        self._batches, self.stateful, self._progress = batches, stateful, progress

    def __iter__(self):
        for index, batch in enumerate(self._batches):
            yield batch
            self._progress.show((index + 1) / len(self._batches), f"batch {index + 1} of {len(self._batches)}")
