"""Which worker of pytest-xdist runs what: the longest modules first, and together what shares an expensive fixture."""

from xdist.scheduler import LoadScopeScheduling

TOGETHER = {
    "one vLLM engine": ("tests/sampling/",),
    "one sweep by the Python interface": ("tests/python/",),
}
LONGEST = (
    "tests/end_to_end/test_slurm.py",
    "tests/end_to_end/test_sweep.py",
    *(paths[0] for paths in TOGETHER.values()),
    "tests/analysis/test_benchmark.py",
    "tests/end_to_end/test_old_store.py",
    "tests/end_to_end/test_notebooks.py",
    "tests/tracking/",
    "tests/training/",
    "tests/reporting/test_page.py",
    "tests/interventions/",
    "tests/commands/test_sweeps.py",
    "tests/end_to_end/",
    "tests/config/test_compose.py",
)
"""Beginnings of paths. A long module that begins last leaves the other core without work."""


def scope(nodeid: str) -> str:
    """Return what a test may not be parted from: its module, or those that share its fixture."""
    module = nodeid.split("::")[0]
    return next((name for name, paths in TOGETHER.items() if module.startswith(paths)), module)


def rank(nodeid: str) -> int:
    """Return the place of a test's module in the run."""
    paths = TOGETHER.get(scope(nodeid), (nodeid,))
    return next((n for n, begins in enumerate(LONGEST) if paths[0].startswith(begins)), len(LONGEST))


class LongestFirst(LoadScopeScheduling):
    """A module goes to one worker as a whole, in the order of the collected tests."""

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)
