"""What the commands print: `--json`, colours, notices, completion."""

import json
import os
import pathlib
import re
import select
import shutil
import subprocess
import sys

import pytest

import fastrnn
from fastrnn import cli, language_model, words
from fastrnn.cli import common, warmup

pytest.importorskip("safetensors")

TINY = ["--embedding", "4", "--hidden", "6", "--batch", "4", "--sequence", "8", "--steps", "20", "--threads", "1"]
TEXT = b"".join(b"%d bottles of beer on the wall, %d bottles of beer.\n" % (n, n) for n in range(99, 0, -1))
ESCAPE = "\x1b["


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """No wishes for colours from outside, and threads as they were."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    threads = fastrnn.get_num_threads()
    yield
    fastrnn.set_num_threads(threads)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "beer.txt"
    path.write_bytes(TEXT)
    return str(path)


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    """The folder of a finished run."""
    folder = str(tmp_path_factory.mktemp("run") / "run")
    assert cli.main(["train", text, *TINY, "--out", folder, "--quiet"]) == 0
    return folder


def output(capsys, *arguments):
    """What a command prints, as long as it says nothing else."""
    capsys.readouterr()
    assert cli.main([*map(str, arguments), "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.endswith("\n")
    return out


def result(capsys, *arguments):
    """The one JSON object, as strict readers take it."""
    out = output(capsys, *arguments, "--json")
    assert out.count("\n") == 1 and ESCAPE not in out
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


# ---- --json ----


def test_json_of_train_and_of_the_finished_run(text, tmp_path, capsys):
    found = result(capsys, "train", text, *TINY, "--out", tmp_path / "run")
    assert found["folder"] == str(tmp_path / "run") and found["updates"] == 20 and found["level"] == "byte"
    model = fastrnn.load(tmp_path / "run" / "model.safetensors")
    assert found["parameters"] == model.num_parameters and len(found["sample"]["text"]) > 100
    line = json.loads((tmp_path / "run" / "history.jsonl").read_text().splitlines()[-1])
    assert found["held_out_bits_per_byte"] == line["held_out_bits_per_byte"]
    assert found["baseline"]["name"] == "zlib -9" and 0 < found["baseline"]["held_out_bits_per_byte"] < 8
    again = result(capsys, "train", "--resume", tmp_path / "run")
    assert {**again, "seconds": 0} == {**found, "seconds": 0}


def test_json_of_sample(run, capsys):
    options = ["sample", run, "--length", "30", "--seed", "1", "--prime", "9"]
    found = result(capsys, *options)
    assert found["text"] + "\n" == output(capsys, *options)
    assert {name: found[name] for name in ("prime", "length", "seed", "top_k")} == {
        "prime": "9", "length": 30, "seed": 1, "top_k": None,
    }  # fmt: skip


def test_json_of_evaluate(run, text, capsys):
    found = result(capsys, "evaluate", run, text)
    assert found["level"] == "byte" and found["bytes"] == len(TEXT)
    zlib, ours = output(capsys, "evaluate", run, text).splitlines()
    assert f": {found['zlib_bits_per_byte']:.3f} " in zlib and f": {found['bits_per_byte']:.3f} " in ours


def test_json_of_evaluate_of_words(text, tmp_path, capsys):
    vocabulary = words.Vocabulary.of(words.sentences(TEXT.decode()), 30)
    model = language_model.build("gru", vocabulary=len(vocabulary), embedding=0, hidden=6)
    fastrnn.save(model, tmp_path / "m", extra={"vocabulary": list(vocabulary.words)})
    found = result(capsys, "evaluate", tmp_path / "m", text)
    unknown, ours = output(capsys, "evaluate", tmp_path / "m", text).splitlines()
    assert found["level"] == "word" and f"{found['perplexity']:.1f} per word" in ours
    assert f" {100 * found['share_of_unknown_words']:.1f}%" in unknown


def test_json_of_diagnose(run, text, capsys):
    options = ["diagnose", run, text, "--steps", "9", "--sequences", "2"]
    found = result(capsys, *options)
    shown = output(capsys, *options)
    assert found["steps"] == 9 and found["batch"] == 2 and found["lags"] == list(range(1, 9))
    (layer,) = found["layers"]
    assert len(layer["by_lag"]["h"]) == 8 and f"{layer['name']}: {layer['verdict']['text']}" in shown
    assert [row["horizon"] for row in found["truncation"]] == [1, 2, 4, 8]


def test_json_of_bench(capsys, monkeypatch):
    monkeypatch.setattr(cli.bench, "SIZES", [cli.bench.Size(2, 3, 4, 5)])
    found = result(capsys, "bench", "--seconds", "0.01", "--threads", "1", "--cell", "gru")
    assert found["cell"] == "gru" and found["threads"] == 1
    (row,) = found["sizes"]
    assert [row[name] for name in ("steps", "batch", "embedding", "hidden")] == [2, 3, 4, 5]
    assert all(
        row[f"{name}_{unit}"] > 0 for name in ("training", "inference") for unit in ("tokens_per_second", "gflops")
    )


def test_json_of_info(capsys):
    found = result(capsys, "info")
    assert found["fastrnn"] == fastrnn.__version__ and found["vector_bytes"] == fastrnn.kernels.simd.VECTOR_BYTES
    assert found["threads"] == fastrnn.get_num_threads() <= found["most_threads"]
    lines = output(capsys, "info").splitlines()
    assert len(lines) == 12 and f"threads:         {found['threads']} of at most {found['most_threads']}" in lines


def test_json_of_warmup(capsys, monkeypatch):
    monkeypatch.setattr(warmup, "tasks", lambda: [("nothing", lambda: None)])
    found = result(capsys, "warmup")
    assert found["tasks"] == ["nothing"] and found["seconds"] >= 0 and found["kernel_cache"] == cli.info.kernel_cache()


def test_json_leaves_errors_as_they_are(run, capsys):
    assert cli.main(["evaluate", run, "nowhere", "--json"]) == 2
    assert capsys.readouterr() == ("", "fastrnn: nowhere: No such file or directory\n")


def test_json_has_python_numbers_and_no_others(capsys):
    import argparse

    import numpy as np

    values = {
        "a": np.float32(0.5),
        "b": np.arange(3),
        "c": [np.nan, {"d": -np.inf}],
        "e": pathlib.Path("x"),
        1: (True,),
    }
    common.report(argparse.Namespace(json=True), values)
    assert json.loads(capsys.readouterr().out) == {
        "a": 0.5, "b": [0, 1, 2], "c": [None, {"d": None}], "e": "x", "1": [True],
    }  # fmt: skip


# ---- notices ----


def test_resuming_a_finished_run_says_so(run, capsys):
    assert cli.main(["train", "--resume", run]) == 0
    out, err = capsys.readouterr()
    assert f"this run is finished; it goes on with a larger --steps, or --seconds, beside --resume {run}" in err
    assert "preparing the kernels" not in err and out.splitlines()[-1].startswith("held-out: ")


def test_verbose_shows_the_log(run, tmp_path, capsys):
    for options in (["--verbose", "train"], ["train", "-v"]):
        folder = tmp_path / options[-1]
        assert cli.main([*options, "--resume", run, "--steps", "200", "--out", str(folder)]) == 0
        err = capsys.readouterr().err
        assert re.search(r"^epoch 1: \d+ updates, \d+\.\d s, mean loss \d+\.\d+$", err, re.MULTILINE)
        assert f"checkpoint after 200 updates saved in {folder}" in err
    assert cli.main(["train", "--resume", run]) == 0
    assert "checkpoint after" not in capsys.readouterr().err  # it lasts for one command


def test_warnings_are_shown_unless_quiet(capsys):
    import logging

    for level, expected in ((0, "warning: beware\n"), (-1, ""), (1, "warning: beware\n")):
        with common.verbosity(level):
            logging.getLogger("fastrnn.trainer").warning("beware")
        assert capsys.readouterr().err == expected


def test_folders_without_a_model_say_what_to_do(run, tmp_path, capsys):
    shutil.copy(os.path.join(run, "checkpoint.safetensors"), tmp_path)
    assert cli.main(["sample", str(tmp_path)]) == 2
    message = f"the folder {tmp_path} has no model.safetensors, go on with: fastrnn train --resume {tmp_path}"
    assert capsys.readouterr().err == f"fastrnn: {message}\n"


def test_sample_of_no_length_is_refused(run, capsys):
    assert cli.main(["sample", run, "--length", "0"]) == 2
    assert "argument --length: it must be at least 1, got 0" in capsys.readouterr().err


def test_plots_that_cannot_be_written_are_refused_before_the_work(run, text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fastrnn.diagnostics, "gradient_flow", lambda *_, **__: pytest.fail("it has begun"))
    for path, message in (
        (tmp_path / "no" / "x.png", f"there is no folder {tmp_path / 'no'}"),
        (tmp_path, "is a folder"),
    ):
        assert cli.main(["diagnose", run, text, "--plot", str(path)]) == 2
        assert message in capsys.readouterr().err


# ---- colours ----


def on_a_terminal(*arguments, **environment):
    """What `fastrnn` shows on a terminal of its own."""
    master, slave = os.openpty()
    root = os.pathsep.join([str(pathlib.Path(fastrnn.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "fastrnn", *arguments], stdin=slave, stdout=slave, stderr=slave,
        env={**os.environ, "PYTHONPATH": root, **environment},
    )  # fmt: skip
    os.close(slave)
    shown = b""
    try:
        while select.select([master], [], [], 60)[0]:
            shown += os.read(master, 4096)
    except OSError:  # how Linux says that the other side is closed
        pass
    process.wait(60)
    os.close(master)
    return shown.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours_on_a_terminal(environment, coloured):
    shown = on_a_terminal("evaluate", "nowhere", "nothing", **environment)
    assert (ESCAPE in shown) == coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", shown) == "fastrnn: nowhere: No such file or directory\r\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_json_is_plain_on_a_terminal():
    assert json.loads(on_a_terminal("info", "--json"))["fastrnn"] == fastrnn.__version__


def test_colours_in_a_pipe_if_they_are_forced_alone(run, text, capsys, monkeypatch):
    assert ESCAPE not in output(capsys, "info") + output(capsys, "evaluate", run, text)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert ESCAPE in output(capsys, "info") and ESCAPE in output(capsys, "evaluate", run, text)
    result(capsys, "info")
    monkeypatch.setenv("NO_COLOR", "1")
    assert ESCAPE not in output(capsys, "info")


# ---- completion ----


@pytest.fixture
def script(capsys, tmp_path):
    pytest.importorskip("shtab")
    path = tmp_path / "fastrnn.bash"
    path.write_text(output(capsys, "completion", "bash"))
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("tr", ["train"]),
        ("train --lay", ["--layers"]),
        ("train --cell l", ["lstm"]),
        ("evaluate --js", ["--json"]),
        ("sample mod", ["model.safetensors"]),
        ("completion f", ["fish"]),
    ],
)
def test_completion_by_bash(script, tmp_path, typed, found):
    subprocess.run(["bash", "-n", script], check=True)
    (tmp_path / "model.safetensors").touch()
    line = ["fastrnn", *typed.split(" ")]
    code = f"""
source {script}
function_of=$(complete -p fastrnn | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
COMP_WORDS=({" ".join(line)}) COMP_CWORD={len(line) - 1}
$function_of
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    shown = subprocess.run(["bash", "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60)
    assert shown.stdout.split() == found


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_of_other_shells(shell, capsys):
    pytest.importorskip("shtab")
    shown = output(capsys, "completion", shell)
    assert "fastrnn" in shown and all(word in shown for word in ("train", "diagnose", "json", "layers"))
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=shown, text=True, check=True, timeout=60)


def test_completion_says_what_is_missing(capsys, monkeypatch):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "shtab" else find_spec(name))
    assert cli.main(["completion", "bash"]) == 2
    assert "pip install shtab (extra fastrnn[completion])" in capsys.readouterr().err
    assert cli.main(["completion", "csh"]) == 2
    assert "invalid choice: 'csh'" in capsys.readouterr().err


@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdin", "stdout", "stderr")])
def test_streams_that_are_closed(monkeypatch, closed):
    """A service may be started without: what is said goes nowhere, the status is as always."""
    for name in closed:
        monkeypatch.setattr(sys, name, None)
    assert cli.main(["completion", "nonsense"]) == 2
    assert cli.main(["info"]) == 0
    assert [getattr(sys, name) for name in closed] == [None] * len(closed)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file's name is Unicode")
def test_text_whose_name_the_locale_does_not_know(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / os.fsdecode(b"t\xffxt.txt")
    path.write_bytes(TEXT)
    command = [sys.executable, "-m", "fastrnn", "train", str(path), *TINY, "--out", str(tmp_path / "run")]
    run = subprocess.run(command, capture_output=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "run" / "loss.png").exists()
