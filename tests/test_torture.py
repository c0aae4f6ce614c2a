"""A short run of every section of the torture, each in a process of its own."""

import pytest

from tests.torture import SECTIONS
from tests.torture.report import summary
from tests.torture.runner import run


@pytest.mark.parametrize("name", SECTIONS)
def test_a_short_run_of_every_section_holds(name):
    result = run(name, seconds=5, seed=0)
    assert result.counts and not result.broken_count, summary(result)
