"""A short run of every section of the torture, each in a process of its own, and what the command makes of it."""

import subprocess
import sys

import pytest

from tests.torture import SECTIONS, numbers, processes, runner
from tests.torture.report import summary
from tests.torture.section import Section


@pytest.mark.parametrize("name", SECTIONS)
def test_a_short_run_of_every_section_holds(name):
    result = runner.run(name, seconds=5, seed=0)
    assert not result.broken_count, summary(result)


@pytest.mark.parametrize("name", SECTIONS)
def test_only_what_there_is_a_target_for_is_left_to_whole_runs(name):
    section = runner.find(name)
    assert section.targets and section.whole_only.keys() < section.targets.keys()


def test_what_was_not_tried_did_not_hold():
    section = Section("a promise", lambda *_: None, 1.0, {"cases": 5, "long cases": 2}, {"long cases": "take an hour"})
    assert runner._missed(section, {}, whole=False) == ["only 0 cases: 1 were to be tried"]
    assert runner._missed(section, {"cases": 1}, whole=False) == []
    expected = ["only 1 cases: 5 were to be tried", "only 0 long cases: 2 were to be tried"]
    assert runner._missed(section, {"cases": 1}, whole=True) == expected
    assert runner._missed(section, {"cases": 5, "long cases": 2}, whole=True) == []


def test_without_asserts_the_command_is_refused():
    arguments = [sys.executable, "-O", "-m", "tests.torture", "--minutes", "0.1"]
    run = subprocess.run(arguments, cwd=runner._ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and run.stderr.endswith("which python -O leaves out: run it without\n"), run.stderr


@pytest.mark.parametrize("rule, too_much", [("bptt.Truncated(1000)", False), ("bptt.Full()", True)])
def test_memory_of_the_whole_workspace_is_noticed(rule, too_much):
    """In the short run, too: where the bound is that of a thousand steps at once."""
    problem = numbers.size_problem(50_000, 16, rule, 1000)
    assert "more than" in problem if too_much else problem is None


@pytest.mark.parametrize("available", [["omp"], ["omp", "workqueue"], ["omp", "workqueue", "tbb"]])
def test_every_scenario_comes_with_every_threading_layer(available):
    pairs = [processes.pair(case, available) for case in range(6 * len(available))]
    assert len(set(pairs)) == 6 * len(available)
    assert len(set(pairs[:6])) == 6 and {layer for _, layer in pairs[:6]} == set(available)
