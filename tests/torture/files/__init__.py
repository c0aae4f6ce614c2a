"""Files: damaged, of other kinds, killed while they are written, without room on the disk."""

from ..section import Section
from .foreign import foreign_files
from .full_disks import full_disks
from .kills import killed_runs
from .loads import damaged_files, large_files
from .other_kinds import other_kinds


def _run(tally, budget):
    other_kinds(tally)
    large_files(tally)
    full_disks(tally, budget.part(0.05))
    foreign_files(tally, budget.part(0.1))
    killed_runs(tally, budget.part(0.4))
    damaged_files(tally, budget)


SECTION = Section(
    promise="a file is read as what it is or refused, and what is killed or finds no room can go on from the last save",
    run=_run,
    share=1.5,
    targets={
        "mutated files": 5_000, "kills survived": 200, "resumed runs compared": 5, "full disks": 20,
        "mutated files of other formats": 500, "large files": 4,
        "of them in the middle of a save": 20, "of them in the middle of a save with two threads": 1,
        "of them with two threads": 10, "resumed runs compared with two threads": 1,
    },
)  # fmt: skip
