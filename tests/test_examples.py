"""The worked examples do what they say."""

import pathlib
import runpy
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def test_lbfgs(capsys):
    pytest.importorskip("scipy.optimize")
    errors = runpy.run_path(str(EXAMPLES / "lbfgs.py"))["main"]()
    assert errors["trained"] < errors["before training"] / 50
    assert errors["second half"] < errors["second half, last value as the prediction"] / 5
    assert "iterations" in capsys.readouterr().out


def test_lbfgs_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(SystemExit, match="SciPy: pip install scipy"):
        runpy.run_path(str(EXAMPLES / "lbfgs.py"))["main"]()
