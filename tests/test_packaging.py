import configparser
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for line in README.splitlines() if line.startswith("python3 -m venv")]


@pytest.fixture(scope="module")
def config():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def lines(text):
    return [line.strip() for line in text.splitlines() if line.strip()]


def packages_in_tree():
    """Every folder with modules, by the name it is installed under; kernels/ goes into fastrnn."""
    inits = [*(ROOT / "fastrnn").rglob("__init__.py"), *(ROOT / "kernels").rglob("__init__.py")]
    folders = {path.parent.relative_to(ROOT) for path in inits}
    linked = pathlib.Path("fastrnn/kernels")  # a link some checkouts have
    folders = {folder for folder in folders if linked != folder and linked not in folder.parents}
    return {".".join(f.parts) if f.parts[0] == "fastrnn" else "fastrnn." + ".".join(f.parts) for f in folders}


def test_packaging_lists_every_package(config):
    assert sorted(lines(config["options"]["packages"])) == sorted(packages_in_tree())


def test_packaging_maps_the_kernels(config):
    mapped = dict(re.split(r"\s*=\s*", line) for line in lines(config["options"]["package_dir"]))
    kernels = {name for name in packages_in_tree() if name.startswith("fastrnn.kernels")}
    assert mapped == {"fastrnn": "fastrnn", **{n: n.removeprefix("fastrnn.").replace(".", "/") for n in kernels}}


def test_packaging_every_module_is_in_a_package():
    for top in ("fastrnn", "kernels"):
        for path in (ROOT / top).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


def test_packaging_nobody_imports_kernels_by_its_bare_name():
    bare = re.compile(r"^\s*(import kernels\b|from kernels\b)", re.MULTILINE)
    for top in ("fastrnn", "kernels", "tests", "bench"):
        for path in (ROOT / top).rglob("*.py"):
            assert not bare.search(path.read_text(encoding="utf-8")), path


def test_packaging_readme_commands_are_on_the_first_screen(config):
    assert [line for line in README.splitlines()[:20] if line in COMMANDS] == COMMANDS and len(COMMANDS) == 2
    main_job, tests = COMMANDS
    assert main_job.endswith(".venv/bin/fastrnn train")
    assert "pytest" in tests
    for command in COMMANDS:
        extras = re.search(r"'\.\[(.*)\]'", command).group(1).split(",")
        assert set(extras) <= set(config["options.extras_require"])


def test_packaging_readme_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_packaging_every_test_tool_is_in_the_extra(config):
    names = " ".join(lines(config["options.extras_require"]["test"]))
    for command in ("pytest", "ruff"):
        assert command in names
        assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", ["fastrnn", "fastrnn.cli"])
def test_packaging_checkout_that_is_not_installed_says_so(tmp_path, module):
    ignored = shutil.ignore_patterns("kernels", "__pycache__")
    shutil.copytree(ROOT / "fastrnn", tmp_path / "fastrnn", ignore=ignored)
    # -I -S: neither this environment's installation nor its variables
    path = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, *{[p for p in sys.path if 'site-packages' in p]!r}]; "
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", path + "import fastrnn"], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 1
    assert re.fullmatch(r"ImportError: .*not installed.*pip install -e \..*", run.stderr.splitlines()[-1])

    search = os.pathsep.join([str(tmp_path), *(p for p in sys.path if "site-packages" in p)])
    command = shlex.split(f"{shlex.quote(sys.executable)} -S -m {module} info")
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": search})
    assert run.returncode == 2
    assert run.stdout == ""
    assert len(run.stderr.splitlines()) == 1 and "pip install -e ." in run.stderr


def test_packaging_optional_modules_are_imported_when_they_are_used():
    code = """
import sys, fastrnn
optional = {f"fastrnn.{name}" for name in ("estimators", "interop", "plot")}
assert not optional & set(sys.modules), sys.modules
fastrnn.plot.history, fastrnn.interop.torch.load, fastrnn.interop.onnx.load, fastrnn.interop.keras.to_weights
assert optional & set(sys.modules) == optional - {"fastrnn.estimators"}
for module in fastrnn, fastrnn.interop:
    assert not hasattr(module, "misspelt")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
