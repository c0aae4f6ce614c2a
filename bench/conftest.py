"""pytest-benchmark's questions need it, and the peers to compare with."""

import importlib.util

import pytest

from . import peers
from .checks import check_agreement

collect_ignore_glob = [] if importlib.util.find_spec("pytest_benchmark") else ["test_*.py"]


def pytest_collection_modifyitems(items):
    for item in items:  # other libraries' warnings are none of ours
        item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def threads():
    """The number of threads for all, once the libraries are loaded."""
    import fastrnn

    peers.load(("torch",))
    return fastrnn.get_num_threads()


@pytest.fixture
def contest(benchmark, threads):
    """`contest(problem, name, work)`: check that `name` agrees with fastrnn, then time it."""

    def run(problem, name, work):
        what = f"{problem.cell} {work} ({problem.shape}) {problem.dtype}"
        try:
            both = {who: peers.make(who, problem, threads, work) for who in ("fastrnn", name)}
        except peers.Unavailable as error:
            pytest.skip(str(error))
        check_agreement({who: peer.results(work) for who, peer in both.items()}, problem.dtype, what)
        benchmark.group = what
        benchmark(getattr(both[name], work))

    return run
