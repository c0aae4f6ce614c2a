import collections
import errno
import importlib.util
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import fastrnn
from fastrnn import cli, corpus, language_model, storage, words
from fastrnn.cli import common, levels, train, training_run, warmup

pytest.importorskip("safetensors")

TINY = ["--embedding", "4", "--hidden", "6", "--batch", "4", "--sequence", "8", "--threads", "1"]
TEXT = b"".join(b"%d bottles of beer on the wall, %d bottles of beer.\n" % (n, n) for n in range(99, 0, -1))


@pytest.fixture(autouse=True)
def restored():
    """Threads and signals as they were."""
    threads, handler = fastrnn.get_num_threads(), signal.getsignal(signal.SIGINT)
    yield
    fastrnn.set_num_threads(threads)
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "beer.txt"
    path.write_bytes(TEXT)
    return str(path)


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("run") / "run"
    assert cli.main(["train", text, *TINY, "--steps", "50", "--out", str(folder)]) == 0
    return folder


def run_in(folder, text, *options):
    return cli.main(["train", text, *TINY, "--out", str(folder), *options])


def history(folder, without=("seconds",)):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in without} for line in lines]


def assert_refused(capsys, arguments, pattern):
    """Exit status 2, nothing on stdout, and one sentence on stderr."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"fastrnn: .*{pattern}.*\n", err.splitlines(keepends=True)[-1]), err
    assert "Traceback" not in err
    return err


# ---- train ----


def test_cli_train_says_what_came_out(text, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run_in(folder, text, "--steps", "50") == 0
    out, err = capsys.readouterr()
    *_, where, zlib, held_out = out.splitlines()
    assert where.endswith(str(folder))
    held = corpus.load([text]).held_out
    assert zlib == f"zlib -9: {corpus.zlib_bits_per_byte(held):.3f} bits per byte"
    model = fastrnn.load(folder / "model.safetensors")
    value = language_model.bits_per_byte(model, language_model.evaluation_stream(held))
    assert held_out == f"held-out: {value:.3f} bits per byte"
    assert "50 updates" in err and "bits per byte" in err
    assert (folder / "checkpoint.safetensors").exists()


def test_cli_train_history(trained):
    lines = history(trained, without=())
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[0] > 0
    training = [line for line in lines if "training_bits_per_byte" in line]
    assert [line["step"] for line in training] == [20, 40]
    assert training[0].keys() == {"step", "training_bits_per_byte", "learning_rate", "gradient_norm", "seconds"}
    held_out = [line for line in lines if "held_out_bits_per_byte" in line]
    assert [line["step"] for line in held_out] == [7, 13, 19, 25, 32, 38, 44, 50]
    assert held_out[-1]["held_out_bits_per_byte"] < held_out[0]["held_out_bits_per_byte"] < 8.5


def test_cli_train_draws_the_curves(trained):
    pytest.importorskip("matplotlib")
    assert (trained / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_cli_train_goes_on_without_matplotlib(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert run_in(tmp_path / "run", text, "--steps", "3") == 0
    out, err = capsys.readouterr()
    assert err.count("pip install matplotlib (extra fastrnn[plot])") == 1
    assert out.splitlines()[-1].startswith("held-out: ")
    assert not (tmp_path / "run" / "loss.png").exists()


def test_cli_train_can_be_repeated_bit_for_bit(trained, text, tmp_path):
    assert run_in(tmp_path / "again", text, "--steps", "50") == 0
    assert history(tmp_path / "again") == history(trained)
    models = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path / "again", trained)]
    assert models[0] == models[1]


def test_cli_train_depends_on_its_seed(trained, text, tmp_path):
    assert run_in(tmp_path / "other", text, "--steps", "50", "--seed", "1") == 0
    assert history(tmp_path / "other") != history(trained)


def interrupt_at(monkeypatch, step):
    """Let Ctrl-C come at an update."""
    show = training_run.Run._show

    def interrupted(run, fraction):
        show(run, fraction)
        if run.updates == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(training_run.Run, "_show", interrupted)


@pytest.mark.parametrize("step", [1, 20, 37])
def test_cli_train_resumed_is_as_if_never_interrupted(text, tmp_path, capsys, monkeypatch, step):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = ["--steps", "60", "--layers", "2", "--dropout", "0.3"]
    folder = tmp_path / "broken off"
    with monkeypatch.context() as context:
        interrupt_at(context, step)
        assert run_in(folder, text, *options) == 130
    out, err = capsys.readouterr()
    assert out == "" and f"--resume {folder}" in err
    assert fastrnn.load(folder / "model.safetensors").num_parameters > 0
    assert cli.main(["train", "--resume", str(folder)]) == 0
    assert run_in(tmp_path / "whole", text, *options) == 0
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    trained_lines = [[x for x in history(f) if "training_bits_per_byte" in x] for f in (folder, tmp_path / "whole")]
    assert trained_lines[0] == trained_lines[1]


def test_cli_train_resumes_into_another_folder_and_with_another_budget(trained, tmp_path):
    before = (trained / "model.safetensors").read_bytes()
    out = tmp_path / "longer"
    checkpoint = str(trained / "checkpoint.safetensors")
    assert cli.main(["train", "--resume", checkpoint, "--steps", "70", "--out", str(out), "--threads", "1"]) == 0
    assert history(out)[-1]["step"] == 70
    assert (trained / "model.safetensors").read_bytes() == before


def test_cli_train_by_time(text, tmp_path):
    began = time.perf_counter()
    assert run_in(tmp_path / "run", text, "--seconds", "0.5") == 0
    lines = history(tmp_path / "run", without=())
    assert 0.5 <= lines[-1]["seconds"] < 5
    assert time.perf_counter() - began < 20
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    assert 0 < max(rates) <= 8e-3


def test_cli_train_names_a_new_folder_for_every_run(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert cli.main(["train", text, *TINY, "--steps", "1"]) == 0
    assert sorted(path.name for path in (tmp_path / "fastrnn-runs").iterdir()) == ["beer", "beer-2"]


def test_cli_train_leaves_no_empty_folder(text, tmp_path, monkeypatch, capsys):
    def interrupted(cell):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "warm_up_training", interrupted)
    assert run_in(tmp_path / "run", text) == 130
    assert not (tmp_path / "run").exists()


def start(*arguments, **options):
    root = os.pathsep.join([str(pathlib.Path(fastrnn.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "fastrnn", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}, **options,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_cli_train_stops_on_ctrl_c(text, tmp_path):
    folder = tmp_path / "run"
    process = start("train", text, *TINY, "--steps", "10000000", "--out", str(folder), "--checkpoint-interval", "0.1")
    try:
        deadline = time.monotonic() + 60
        while not (folder / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - sent < 5  # a second or two, on a machine that has nothing else to do
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == "" and "Traceback" not in err and err.splitlines()[-1].endswith(f"--resume {folder}")
    assert fastrnn.load(folder / "model.safetensors").num_parameters > 0
    step = history(folder)[-1]["step"]
    assert cli.main(["train", "--resume", str(folder), "--steps", str(step + 40), "--threads", "1"]) == 0
    assert history(folder)[-1]["step"] == step + 40


# ---- train: bad input ----


def test_cli_train_refuses_texts_it_cannot_use(tmp_path, text, capsys):
    empty, short = tmp_path / "empty", tmp_path / "short"
    empty.write_bytes(b"")
    short.write_bytes(b"too short")
    out = ["--out", tmp_path / "run", *TINY]
    assert_refused(capsys, ["train", tmp_path / "none", *out], "none: No such file or directory")
    assert_refused(capsys, ["train", tmp_path, *out], "Is a directory")
    assert_refused(capsys, ["train", text, empty, *out], "empty is empty")
    assert_refused(capsys, ["train", short, *out], "short is too short")
    assert_refused(capsys, ["train", text, *out, "--batch", "5000"], "beer.txt is too short.*--batch")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hiden", "3"], "--hiden"),
        (["--hidden", "0"], "--hidden: it must be at least 1, got 0"),
        (["--hidden", "many"], "--hidden: it must be an integer, got 'many'"),
        (["--dropout", "1"], "--dropout: it must be below 1"),
        (["--lr", "nan"], "--lr: it must be finite"),
        (["--cell", "transformer"], "--cell: invalid choice"),
        (["--steps", "5", "--seconds", "5"], "not allowed with"),
        (["--threads", "1000000"], "--threads: it must be at most"),
        (["--hidden", "100000000"], "not enough memory"),
    ],
)
def test_cli_train_refuses_options(text, tmp_path, capsys, options, message):
    assert_refused(capsys, ["train", text, "--out", tmp_path / "run", *options], message)
    assert not (tmp_path / "run").exists()


def test_cli_train_does_not_touch_an_earlier_run(trained, text, capsys):
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    assert_refused(capsys, ["train", text, *TINY, "--out", trained], "holds an earlier run.*--resume")
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before


def test_cli_train_refuses_a_folder_that_cannot_be_written(text, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert_refused(capsys, ["train", text, *TINY, "--out", tmp_path / "file"], "file: File exists")
    if sys.platform == "linux":
        assert_refused(capsys, ["train", text, *TINY, "--out", "/proc/self/run"], "/proc/self/run: ")


def changed_run(trained, folder, change, of="extra"):
    """A copy of a run in which `change(extra)` has changed what its checkpoint says beside the training's state, or
    another part `of` it."""
    shutil.copytree(trained, folder)
    tensors, meta = storage.load_tensors(folder / "checkpoint.safetensors", "checkpoint")
    change(meta[of])
    storage.save_tensors(folder / "checkpoint.safetensors", "checkpoint", tensors, meta)
    return folder


@pytest.mark.parametrize("change", [{"seconds": 10**400}, {"step": 10**400}, {"training_bits_per_byte": 10**400}])
def test_cli_train_refuses_a_history_beyond_numbers(trained, tmp_path, capsys, change):
    def put(extra):
        line = json.loads(extra["log"]["lines"].splitlines()[-1])
        extra["log"]["lines"] = json.dumps(line | change)

    folder = changed_run(trained, tmp_path / "run", put)
    assert_refused(capsys, ["train", "--resume", folder, "--steps", "70"], f"is damaged .{next(iter(change))} must")


@pytest.mark.parametrize("position", ["3", -1, 10**400], ids=["text", "below 0", "huge"])
def test_cli_train_refuses_a_place_that_is_none(trained, tmp_path, capsys, position):
    folder = changed_run(trained, tmp_path / "run", lambda place: place.update(position=position), of="batches")
    assert_refused(capsys, ["train", "--resume", folder, "--steps", "70"], "is damaged: .*: position must be")


def test_cli_train_resumes_where_no_time_seems_to_pass(trained, tmp_path):
    """As the clock and the history of a damaged checkpoint may have it: there is no speed to show."""

    def put(extra):
        extra["seconds"] = 1e300
        line = json.loads(extra["log"]["lines"].splitlines()[0])
        extra["log"]["lines"] = "\n".join([json.dumps(line | {"seconds": 1e300})] * 12)

    folder = changed_run(trained, tmp_path / "run", put)
    assert cli.main(["train", "--resume", str(folder), "--steps", "70", "--threads", "1"]) == 0
    assert history(folder)[-1]["step"] == 70


def test_cli_train_refuses_to_resume_what_is_not_the_same_run(trained, text, tmp_path, capsys):
    assert_refused(capsys, ["train", "--resume", trained, "--hidden", "7"], "--hidden can't be given with --resume")
    assert_refused(capsys, ["train", text, "--resume", trained], "FILE can't be given")
    assert_refused(capsys, ["train", "--resume", tmp_path], "has no checkpoint.safetensors: it is not the folder of")
    model = trained / "model.safetensors"
    assert_refused(capsys, ["train", "--resume", model], "must be a checkpoint, but holds a model")
    other = tmp_path / "other.safetensors"
    storage.save_tensors(other, "checkpoint", {}, {"extra": None})
    assert_refused(capsys, ["train", "--resume", other], "not a checkpoint of 'fastrnn train'")


def test_cli_train_refuses_to_resume_on_a_text_that_has_changed(tmp_path, capsys):
    path = tmp_path / "text"
    path.write_bytes(TEXT)
    assert run_in(tmp_path / "run", str(path), "--steps", "2") == 0
    path.write_bytes(TEXT.replace(b"beer", b"wine"))
    assert_refused(capsys, ["train", "--resume", tmp_path / "run"], "not the text")
    path.unlink()
    os.mkfifo(path)
    assert_refused(capsys, ["train", "--resume", tmp_path / "run"], "is not a file")


@pytest.mark.parametrize(
    "change", [{"hidden": "6"}, {"hidden": 7}, {"files": 3}, {"files": [3]}, {"lr": -1.0}, {"cell": "x"}, {"extra": 1}]
)
def test_cli_train_refuses_checkpoints_with_other_contents(trained, tmp_path, capsys, change):
    tensors, meta = storage.load_tensors(trained / "checkpoint.safetensors", "checkpoint")
    meta["extra"]["settings"] |= change
    storage.save_tensors(tmp_path / "checkpoint.safetensors", "checkpoint", tensors, meta)
    assert_refused(capsys, ["train", "--resume", tmp_path], r"\w")


def test_cli_train_says_when_it_diverges(text, tmp_path, capsys):
    options = ["--out", tmp_path / "run", "--lr", "1e38"]
    assert_refused(capsys, ["train", text, *TINY, *options], "not all numbers are finite: .*checkpoint.*--lr")
    tensors, _ = storage.load_tensors(tmp_path / "run" / "checkpoint.safetensors", "checkpoint")
    assert all(np.isfinite(array).all() for array in tensors.values())


def full_disk(monkeypatch):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)


def test_cli_train_on_a_full_disk_keeps_what_there_is(text, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    assert run_in(folder, text, "--steps", "5") == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    full_disk(monkeypatch)
    assert_refused(capsys, ["train", "--resume", folder, "--steps", "10"], "checkpoint.safetensors: No space left")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_cli_train_says_beforehand_that_safetensors_is_missing(text, tmp_path, capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "safetensors" else find_spec(name))
    pattern = r"safetensors.*pip install safetensors \(extra fastrnn\[train\]\)"
    assert_refused(capsys, ["train", text, *TINY, "--out", tmp_path / "run"], pattern)
    assert not (tmp_path / "run").exists()


# ---- sample ----


def test_cli_sample_takes_the_likeliest_bytes(trained, capsys):
    def sample(*options):
        assert cli.main(["sample", str(trained), "--prime", "9", "--length", "30", *options]) == 0
        return capsys.readouterr().out

    expected = sample("--top-k", "1")
    assert expected == sample("--top-k", "1", "--temperature", "3") == sample("--temperature", "0")
    assert expected.startswith("9") and expected.endswith("\n")
    assert sample("--seed", "1") == sample("--seed", "1") != sample("--seed", "2")


def test_cli_sample_takes_a_share_of_the_probability(trained, capsys):
    texts = []
    for options in (["--top-p", "1e-9"], ["--top-k", "1"], ["--top-p", "0.5", "--seed", "1"]):
        assert cli.main(["sample", str(trained), "--length", "30", *options]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_cli_sample_takes_the_file_as_well_as_the_folder(trained, capsys):
    texts = []
    for model in (trained, trained / "model.safetensors"):
        assert cli.main(["sample", str(model), "--seed", "0"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_cli_sample_shows_what_is_not_text_as_replaced():
    shown = "".join(common.displayed("ä\t€\n".encode() + b"\xff\x1b[31m\x00\xe2\x82"))
    assert shown == "ä\t€\n\ufffd\ufffd[31m\ufffd\ufffd"


@pytest.mark.parametrize("command", [["sample"], ["evaluate", "FILE"]])
def test_cli_refuses_files_that_are_no_language_model(trained, text, tmp_path, capsys, command):
    command, *files = command
    files = [text for _ in files]
    whole = (trained / "model.safetensors").read_bytes()
    cut, newer, other = (tmp_path / name for name in ("cut", "newer", "other"))
    cut.write_bytes(whole[:-10])
    newer.write_bytes(whole.replace(b'"format_version":"1"', b'"format_version":"2"'))
    fastrnn.save(fastrnn.LSTM(2, 3), other)
    assert_refused(capsys, [command, cut, *files], "cut short")
    assert_refused(capsys, [command, newer, *files], "newer fastrnn")
    assert_refused(capsys, [command, text, *files], "not a fastrnn file")
    assert_refused(capsys, [command, other, *files], "not a byte-level language model")
    assert_refused(capsys, [command, tmp_path / "none", *files], "No such file")
    assert_refused(capsys, [command, trained / "checkpoint.safetensors", *files], "holds a checkpoint")
    assert_refused(capsys, [command, tmp_path, *files], "has no model.safetensors: it is not the folder of a run")


def test_cli_sample_refuses_options(trained, capsys):
    assert_refused(capsys, ["sample", trained, "--prime", ""], "prime must have at least one byte")
    assert_refused(capsys, ["sample", trained, "--temperature", "-1"], "--temperature: it must be at least 0")
    assert_refused(capsys, ["sample", trained, "--top-k", "257"], "--top-k: it must be at most 256")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes differ")
def test_cli_sample_into_a_closed_pipe_ends_quietly(trained):
    with start("sample", str(trained), "--length", "200000") as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_cli_stdout_on_a_full_disk():
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, "-c", "import sys; from fastrnn.cli import main; sys.exit(main(['--version']))"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr == "fastrnn: No space left on device\n"


# ---- evaluate ----


def test_cli_evaluate_gives_bits_per_byte(trained, tmp_path, capsys):
    text = b"9 bottles of water"
    (tmp_path / "water").write_bytes(text)
    model = fastrnn.load(trained / "model.safetensors")
    logits = model.forward(np.frombuffer(text, np.uint8)[:-1, np.newaxis])[0][:, 0].astype(np.float64)
    predicted = logits[np.arange(len(text) - 1), list(text[1:])] - np.log(np.exp(logits).sum(-1))
    assert cli.main(["evaluate", str(trained), str(tmp_path / "water")]) == 0
    zlib, ours = capsys.readouterr().out.splitlines()
    assert zlib == f"zlib -9: {corpus.zlib_bits_per_byte(text):.3f} bits per byte"
    assert ours == f"model: {-predicted.mean() / np.log(2):.3f} bits per byte"


def test_cli_evaluate_refuses_texts_it_cannot_use(trained, tmp_path, capsys):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "one").write_bytes(b"1")
    assert_refused(capsys, ["evaluate", trained, tmp_path / "empty"], "empty is empty")
    assert_refused(capsys, ["evaluate", trained, tmp_path / "one"], "one is too short")
    assert_refused(capsys, ["evaluate", trained, tmp_path / "none"], "No such file")


# ---- words ----

WORDS = ["--level", "word", "--vocabulary", "30", "--hidden", "6", "--batch", "4", "--threads", "1"]


@pytest.fixture(scope="module")
def trained_on_words(text, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("words") / "run"
    assert cli.main(["train", text, *WORDS, "--embedding", "4", "--steps", "50", "--out", str(folder)]) == 0
    return folder


def test_cli_train_on_words_reports_perplexity(text, tmp_path, capsys):
    folder = tmp_path / "run"
    assert cli.main(["train", text, *WORDS, "--steps", "30", "--out", str(folder)]) == 0
    out, err = capsys.readouterr()
    *_, where, baseline, held_out = out.splitlines()
    assert where.endswith(str(folder))
    assert re.fullmatch(r"words by frequency alone: perplexity \d+\.\d per word", baseline)
    assert "sentences" in err and "30 different words known" in err
    training = [line["training_perplexity"] for line in history(folder) if "training_perplexity" in line]
    held = [line["held_out_perplexity"] for line in history(folder) if "held_out_perplexity" in line]
    assert len(training) == 1 and len(held) == 8 and held[-1] < held[0] < 40
    assert held_out == f"held-out: perplexity {held[-1]:.1f} per word"


def test_cli_train_on_words_baseline_by_hand(text):
    settings = training_run.Settings(level="word", vocabulary=30, batch=4)
    loaded = corpus.load([text])
    name, value = levels.level_of(settings, loaded).baseline()
    training, held_out = (words.sentences(part.decode()) for part in (loaded.training, loaded.held_out))
    vocabulary = words.Vocabulary.of(training, 30)
    counts = collections.Counter(token for s in training for token in vocabulary.encoded(s)[1:])
    wanted = [token for s in held_out for token in vocabulary.encoded(s)[1:]]
    p = [(counts[token] + 1) / (counts.total() + len(vocabulary)) for token in wanted]
    assert value == pytest.approx(np.exp(-np.mean(np.log(p))))


@pytest.mark.parametrize("step", [1, 37])
def test_cli_train_on_words_resumed_is_as_if_never_interrupted(text, tmp_path, capsys, monkeypatch, step):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = [*WORDS, "--embedding", "4", "--steps", "60", "--dropout", "0.3"]  # more than two passes
    folder, whole = tmp_path / "broken off", tmp_path / "whole"
    with monkeypatch.context() as context:
        interrupt_at(context, step)
        assert cli.main(["train", text, *options, "--out", str(folder)]) == 130
    assert cli.main(["train", "--resume", str(folder)]) == 0
    assert cli.main(["train", text, *options, "--out", str(whole)]) == 0
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    trained_lines = [[x for x in history(f) if "training_perplexity" in x] for f in (folder, whole)]
    assert trained_lines[0] == trained_lines[1]


def test_cli_train_resumes_a_checkpoint_from_before_there_were_levels(trained, tmp_path):
    tensors, meta = storage.load_tensors(trained / "checkpoint.safetensors", "checkpoint")
    for name in ("level", "vocabulary"):
        del meta["extra"]["settings"][name]
    storage.save_tensors(tmp_path / "checkpoint.safetensors", "checkpoint", tensors, meta)
    assert cli.main(["train", "--resume", str(tmp_path), "--steps", "55"]) == 0
    assert history(tmp_path)[-1]["step"] == 55


def test_cli_sample_writes_sentences(trained_on_words, capsys):
    def sample(*options):
        assert cli.main(["sample", str(trained_on_words), "--length", "60", *options]) == 0
        return capsys.readouterr().out

    assert sample("--seed", "1") == sample("--seed", "1") != sample("--seed", "2")
    found = sample("--seed", "1", "--prime", "12 bottles", "--temperature", "2")
    assert found.startswith("12 bottles") and "<" not in found and found.count("\n") > 1
    vocabulary = storage.load_extra(trained_on_words / "model.safetensors")["vocabulary"]
    assert len(vocabulary) == 30
    assert {w for line in found.splitlines()[1:] for w in words.split(line) if w.isalnum()} <= set(vocabulary)
    assert sample("--top-p", "1e-9") == sample("--top-k", "1") == sample("--temperature", "0")


def test_cli_sample_of_words_refuses_options(trained_on_words, capsys):
    assert_refused(capsys, ["sample", trained_on_words, "--prime", " "], "prime must have at least one word")
    assert_refused(capsys, ["sample", trained_on_words, "--top-k", "31"], "--top-k: it must be at most 30")
    assert_refused(capsys, ["sample", trained_on_words, "--top-p", "0"], "--top-p: it must be above 0")


def test_cli_evaluate_gives_perplexity(trained_on_words, tmp_path, capsys):
    text = "9 bottles of wine. Nine!"
    (tmp_path / "wine").write_text(text)
    model, vocabulary = common.load_model(str(trained_on_words))
    losses = []
    for sentence in words.sentences(text):
        tokens = vocabulary.encoded(sentence)
        logits = model.forward(tokens[:-1, np.newaxis])[0][:, 0].astype(np.float64)
        losses += list(np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(tokens) - 1), tokens[1:]])
    assert cli.main(["evaluate", str(trained_on_words), str(tmp_path / "wine")]) == 0
    unknown, ours = capsys.readouterr().out.splitlines()
    unseen = sum(word not in vocabulary.words for word in words.split(text))
    assert unknown == f"unknown words: {100 * unseen / 7:.1f}%"
    assert ours == f"model: perplexity {np.exp(np.mean(losses)):.1f} per word"


def test_cli_words_refuse_bad_input(trained_on_words, text, tmp_path, capsys):
    blank, one = tmp_path / "blank", tmp_path / "one"
    blank.write_text(" \n \n" * 20)
    one.write_text("word" + " " * 99)
    out = ["--out", tmp_path / "run", *WORDS]
    assert_refused(capsys, ["train", blank, *out], "blank is too short: it has no sentence")
    assert_refused(capsys, ["train", one, *out], "one is too short: it has no sentence held out")
    assert_refused(capsys, ["train", text, *out, "--sequence", "5"], "--sequence can't be given with --level word")
    assert_refused(capsys, ["train", text, *TINY, "--vocabulary", "5"], "--vocabulary can't be given with --level byte")
    assert_refused(capsys, ["train", text, *out, "--vocabulary", "3"], "--vocabulary: it must be at least 4")
    assert_refused(capsys, ["train", text, "--level", "letter"], "--level: invalid choice")
    assert_refused(capsys, ["train", "--resume", trained_on_words, "--level", "byte"], "--level can't be given")
    assert_refused(capsys, ["evaluate", trained_on_words, blank], "blank is too short: it has no words")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "extra", [{}, {"vocabulary": 3}, {"vocabulary": ["a"]}, {"vocabulary": [*words.SPECIAL, "few"]}]
)
def test_cli_refuses_models_with_another_vocabulary(trained_on_words, tmp_path, capsys, extra):
    model = fastrnn.load(trained_on_words / "model.safetensors")
    fastrnn.save(model, tmp_path / "model.safetensors", extra=extra)
    assert_refused(capsys, ["sample", tmp_path], "model.safetensors: .*")
    fastrnn.save(model, tmp_path / "model.safetensors")
    assert_refused(capsys, ["sample", tmp_path], "not a byte-level language model")


# ---- info, warmup, bench ----


def test_cli_info_says_it_all(capsys):
    assert cli.main(["info"]) == 0
    lines = dict(re.split(r":\s+", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["fastrnn"] == fastrnn.__version__ and lines["NumPy"] == np.__version__
    assert {"Python", "Numba", "llvmlite", "CPU", "CPU features", "threading layer", "kernel cache"} <= lines.keys()
    assert lines["vector width"].startswith(f"{fastrnn.kernels.simd.VECTOR_BYTES} bytes")
    assert lines["threads"].startswith(f"{fastrnn.get_num_threads()} of")


def test_cli_warmup_runs_its_tasks(capsys, monkeypatch):
    wanted = {"lstm", "rnn tanh", "streaming", "jordan", "layers", "losses", "optimizers"}  # the others take a minute
    wanted = {f"{name} float32" for name in wanted}
    tasks = [task for task in warmup.tasks() if task[0] in wanted]
    assert len(tasks) == len(wanted)
    monkeypatch.setattr(warmup, "tasks", lambda: tasks)
    assert cli.main(["warmup"]) == 0
    assert re.fullmatch(r"all kernels are compiled, .* \(\d+\.\d s\)\n", capsys.readouterr().out)


def test_cli_bench_prints_a_table(capsys, monkeypatch):
    monkeypatch.setattr(cli.bench, "SIZES", [cli.bench.Size(2, 3, 4, 5), cli.bench.Size(1, 1, 4, 5)])
    assert cli.main(["bench", "--seconds", "0.01", "--threads", "1"]) == 0
    head, _, _, *rows = capsys.readouterr().out.splitlines()
    assert head == "lstm, float32, 1 threads"
    assert [row.split()[:4] for row in rows] == [["2", "3", "4", "5"], ["1", "1", "4", "5"]]
    assert all(float(figure.replace(",", "")) >= 0 for row in rows for figure in row.split()[4:])


def test_cli_bench_counts_the_operations_of_the_products():
    size = cli.bench.Size(steps=9, batch=9, embedding=3, hidden=5)
    assert cli.bench.flops_per_token("lstm", size) == 2 * (4 * 5 * 3 + 4 * 5 * 5 + 5 * 256)
    assert cli.bench.flops_per_token("rnn", size) == 2 * (5 * 3 + 5 * 5 + 5 * 256)


# ---- the rest ----


def test_cli_hides_no_bug(monkeypatch):
    def fails(arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli.info, "run", fails)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["info"])


def test_cli_help_and_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastrnn {fastrnn.__version__}\n"
    for command in ([], *([command.__name__.rpartition(".")[2]] for command in cli._COMMANDS)):
        assert cli.main([*command, "--help"]) == 0
        assert capsys.readouterr().out.startswith(" ".join(["usage: fastrnn", *command]))


def test_cli_help_shows_the_defaults(capsys):
    cli.main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for default in ("lstm", "64", "256", "0.008", "3000", "30"):
        assert f"(default: {default})" in text


def test_cli_refuses_what_is_no_command(capsys):
    assert_refused(capsys, [], "COMMAND")
    assert_refused(capsys, ["fly"], "fly")


def test_cli_module_runs_like_the_script():
    process = start("--version")
    assert process.communicate(timeout=60) == (f"fastrnn {fastrnn.__version__}\n", "")
    assert process.returncode == 0


def test_cli_progress_prints_lines_where_there_is_no_terminal(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 6.0, 7.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with common.Progress("work", 0.25) as progress:
        for fraction in (0.3, 0.5, 0.6):
            progress.show(fraction, "going on")
    assert capsys.readouterr() == ("", "work: 50%, going on, 0:12 left\n")


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def fileno(self):
        return self.slave


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_cli_progress_is_a_bar_on_a_terminal(monkeypatch):
    pytest.importorskip("tqdm")
    master, slave = os.openpty()
    terminal = Terminal()
    terminal.slave = slave
    monkeypatch.setattr(sys, "stderr", terminal)
    with common.Progress("work", 0.25) as progress:
        time.sleep(0.15)
        progress.show(0.5, "going on")
        progress.line("by the way")
    os.close(master)
    os.close(slave)
    assert re.search(r"work:  50%\|[#█]+ +\| \d\d:\d\d, \d\d:\d\d left, going on", terminal.getvalue())
    assert "by the way\n" in terminal.getvalue()


def test_cli_progress_prints_lines_on_a_terminal_without_tqdm(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(common, "_SECONDS_BETWEEN_LINES", 0)
    with common.Progress("work") as progress:
        progress.show(0.5, "going on")
    assert capsys.readouterr().err.startswith("work: 50%, going on, ")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (36_000, "10:00:00"), (-1, "0:00")]
)
def test_cli_durations(seconds, text):
    assert common.duration(seconds) == text
