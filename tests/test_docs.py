"""The documents in docs/: what they show is there, their examples run, their tables have places."""

import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
EXAMPLES = [
    (path.name, example)
    for path in PAGES
    for example in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
]


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
def test_docs_example_runs(page, example):
    exec(compile(example, page, "exec"), {"__name__": "__main__"})


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
