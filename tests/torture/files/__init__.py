"""Files: damaged, killed while they are written, without room on the disk, from older versions."""

from ..section import Section
from .loads import damaged_files


def _run(tally, budget):
    damaged_files(tally, budget.part(0.35))


SECTION = Section(
    promise="a file is read as what it is or refused, and a run that is killed while it saves can be resumed",
    run=_run,
    share=1.0,
    targets={"mutated files": 5_000, "kills survived": 200},
)
