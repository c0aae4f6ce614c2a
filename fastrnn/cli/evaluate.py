"""`fastrnn evaluate`: how well a model predicts a file."""

from .. import corpus, language_model, words
from .common import CommandError, Progress, add_json, add_threads, load_model, report, styled, use_threads
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
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments) -> None:
    """Print the figures."""
    use_threads(arguments.threads)
    model, vocabulary = load_model(arguments.model)
    (text,) = corpus.read_files([arguments.file])
    if vocabulary is None:
        figures, lines = _evaluate_bytes(model, text, arguments.file)
    else:
        figures, lines = _evaluate_words(model, vocabulary, text, arguments.file)
    *others, ours = lines
    report(arguments, figures, "\n".join([*others, styled(ours, "result")]))


def _evaluate_bytes(model, text, name):
    """The figures by name, and as lines."""
    try:
        stream = language_model.evaluation_stream(text)
    except ValueError:
        raise CommandError(f"{name} is too short: one byte leaves nothing to predict") from None
    with Progress("evaluate") as progress:
        value = language_model.bits_per_byte(model, _Shown(stream, True, progress))
    zlib = corpus.zlib_bits_per_byte(text)
    figures = {"level": "byte", "bytes": len(text), "bits_per_byte": value, "zlib_bits_per_byte": zlib}
    return figures, (f"zlib -9: {zlib:.3f} bits per byte", f"model: {value:.3f} bits per byte")


def _evaluate_words(model, vocabulary, text, name):
    """The figures by name, and as lines."""
    sentences = [vocabulary.encoded(sentence) for sentence in words.sentences(decoded(text))]
    if not sentences:
        raise CommandError(f"{name} is too short: it has no words")
    batches = words.SentenceBatches(sentences, _BATCH, seed=None)
    with Progress("evaluate") as progress:
        value = language_model.perplexity(model, _Shown(batches, False, progress))
    unknown = share_of_unknown(sentences)
    figures = {"level": "word", "sentences": len(sentences), "perplexity": value, "share_of_unknown_words": unknown}
    return figures, (f"unknown words: {100 * unknown:.1f}%", f"model: perplexity {value:.1f} per word")


class _Shown:
    """Batches, with progress; `stateful` as for `Trainer`."""

    def __init__(self, batches, stateful, progress):
        self._batches, self.stateful, self._progress = batches, stateful, progress

    def __iter__(self):
        for index, batch in enumerate(self._batches):
            yield batch
            self._progress.show((index + 1) / len(self._batches), f"batch {index + 1} of {len(self._batches)}")
