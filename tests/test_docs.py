"""The documents in docs/: what they show is there, their examples run, their tables have places."""

import importlib.util
import itertools
import pathlib
import re
import shlex

import numpy as np
import pytest

from fastrnn.cli import main

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def blocks(language):
    """The page and the text of each code block of a language, the README's among them."""
    for path in [ROOT / "README.md", *PAGES]:
        for block in re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            yield path.name, block


EXAMPLES = list(blocks("python"))
SHELL = [(page, line) for page, block in blocks("sh") for line in block.splitlines() if line.startswith("fastrnn ")]
ONLY_PARSED = {"warmup", "bench"}  # tested elsewhere, and long
SHORTER = {
    "train": ["--hidden", "8", "--sequence", "10", "--batch", "4"],
    "forecast": ["--epochs", "1"],
    "classify": ["--epochs", "1"],
}


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_docs_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        if not target.startswith("https://"):
            assert not file or (path.parent / file).exists(), target
            assert not anchor or file or anchor in anchors(text), target


@pytest.mark.parametrize(("page", "example"), EXAMPLES)
def test_docs_example_runs(page, example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(example, page, "exec"), {"__name__": "__main__"})


def test_docs_every_block_has_a_language_that_is_run():
    for path in [ROOT / "README.md", *PAGES]:
        opened = re.findall(r"^```(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)[::2]
        assert {language for language in opened if not language.startswith("{")} <= {"python", "sh", "text"}, path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the pages' commands speak of."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("notes", "letters", "other", "book"):
        (folder / f"{name}.txt").write_text(f"These are {name}, and they go on like this for a while. " * 40)
    months = [f"{2010 + n // 12}-{n % 12 + 1:02},{n % 12 + n / 9},{n % 5},{n % 7}" for n in range(120)]
    (folder / "sales.csv").write_text("\n".join(["month,sales,price,orders", *months]))
    for name in ("train", "test"):
        np.savez(folder / f"{name}.npz", X=np.random.default_rng(0).standard_normal((20, 5, 3)), y=np.arange(20) % 2)
    return folder


def shortened(words):
    """A command as on its page, but what it would do for minutes it does for a moment."""
    command = words[0]
    if command in ONLY_PARSED:
        return [*words, "--help"]
    if "--seconds" in words:
        words[words.index("--seconds") + 1] = "0.2"
    elif command == "train":
        words = [*words, "--steps", "3"]
    return words if {"--resume", "--model"} & set(words) else [*words, *SHORTER.get(command, ())]


@pytest.mark.parametrize(("page", "line"), SHELL)
def test_docs_command_runs(page, line, folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    tokens = shlex.shlex(line, posix=True, punctuation_chars=True)
    words = list(itertools.takewhile(lambda token: token not in (">", "|", "&&"), tokens))[1:]
    assert main(shortened(words)) == 0, capfd.readouterr().err


def test_docs_tables_are_filled():
    page = (ROOT / "docs" / "gradients-through-time.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- begin (\S+) -->\n(.*?)<!-- end \1 -->", page, re.DOTALL)
    assert len(blocks) >= 8 and all(lines.count("\n") > 2 for _, lines in blocks)


def test_docs_fill_replaces_blocks_alone():
    spec = importlib.util.spec_from_file_location("make_pages", ROOT / "bench" / "gradients" / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n"
    assert module.fill(page, {"x": [r"new \1"]}) == "a\n<!-- begin x -->\nnew \\1\n<!-- end x -->\nb\n"
    with pytest.raises(SystemExit, match="one block y"):
        module.fill(page, {"y": []})
