"""`fastrnn diagnose`, on a model as it was initialised."""

import sys

import pytest

import fastrnn
from fastrnn import cli, language_model, words

pytest.importorskip("safetensors")

TEXT = b"".join(b"%d bottles of beer on the wall, %d bottles of beer.\n" % (n, n) for n in range(99, 0, -1))
SMALL = ["--steps", "20", "--sequences", "3", "--threads", "1"]


@pytest.fixture(autouse=True)
def restored():
    threads = fastrnn.get_num_threads()
    yield
    fastrnn.set_num_threads(threads)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "beer.txt"
    path.write_bytes(TEXT)
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    fastrnn.save(language_model.build("gru", embedding=4, hidden=6, layers=2, dropout=0.5), path)
    return str(path)


def refused(capsys, *arguments):
    """The one sentence on stderr, with exit status 2 and nothing on stdout."""
    assert cli.main(["diagnose", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fastrnn: ") and err.count("\n") == 1, (out, err)
    return err


def test_cli_diagnose_prints_tables_and_verdicts(model, text, capsys):
    assert cli.main(["diagnose", model, text, *SMALL]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("gradient flow over 20 steps of 3 sequences, loss 5.")
    assert "singular value" in out and " 19\n" in out and err == ""
    flow, bias = out.split("truncated gradients against the full one\n")
    assert [line.split()[0] for line in bias.splitlines()[3:]] == ["1", "2", "4", "8", "16"]
    verdicts = flow.splitlines()[-3:-1]
    assert verdicts[0].startswith("2.l0: vanishes: halves every ") and verdicts[1].startswith("2.l1: vanishes: ")


def test_cli_diagnose_can_be_repeated(model, text, capsys):
    texts = []
    for threads in ("1", str(fastrnn.get_num_threads())):
        assert cli.main(["diagnose", model, text, *SMALL[:-1], threads, "--max-lag", "5"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_cli_diagnose_plots(model, text, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "flow.png"
    assert cli.main(["diagnose", model, text, *SMALL, "--plot", str(path)]) == 0
    other = tmp_path / "flow-truncation.png"
    assert path.read_bytes().startswith(b"\x89PNG") and other.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().err == f"plot: {path}\nplot: {other}\n"


def test_cli_diagnose_of_words(text, tmp_path, capsys):
    vocabulary = words.Vocabulary.of(words.sentences(TEXT.decode()), 30)
    net = language_model.build("gru", vocabulary=len(vocabulary), embedding=0, hidden=6)
    path = tmp_path / "model.safetensors"
    fastrnn.save(net, path, extra={"vocabulary": list(vocabulary.words)})
    assert cli.main(["diagnose", str(path), text, *SMALL, "--max-lag", "19"]) == 0
    out, _ = capsys.readouterr()
    steps = 1 + max(map(len, words.sentences(TEXT.decode())))
    assert out.startswith(f"gradient flow over {steps} steps of 3 sequences, loss 3.") and "0.l0: vanishes" in out
    (tmp_path / "blank.txt").write_text(" \n")
    assert "blank.txt has no sentence" in refused(capsys, path, tmp_path / "blank.txt")


def test_cli_diagnose_refuses(model, text, tmp_path, capsys, monkeypatch):
    assert "--max-lag must be less than --steps 20, got 20" in refused(capsys, model, text, *SMALL, "--max-lag", 20)
    assert "--steps: it must be at least 2, got 1" in refused(capsys, model, text, "--steps", 1)
    assert "nowhere: No such file" in refused(capsys, model, "nowhere")
    assert "nowhere: No such file" in refused(capsys, "nowhere", text)
    short = tmp_path / "short.txt"
    short.write_bytes(TEXT[:20])
    assert "is too short: it has 20 bytes, --steps 20 needs one more" in refused(capsys, model, short, *SMALL)
    other = tmp_path / "other.safetensors"
    fastrnn.save(fastrnn.GRU(2, 3), other)
    assert "is not a byte-level language model" in refused(capsys, other, text)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert "pip install matplotlib" in refused(capsys, model, text, "--plot", tmp_path / "flow.png")
