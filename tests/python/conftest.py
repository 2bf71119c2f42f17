import pytest

from em.python.results import SweepResults
from support import tiny_sweep

TINY = ["model=tiny_random", "train=tiny", "sample=tiny", "sample.engine=hf", "questions.sets=[open]", "tracking=off"]


@pytest.fixture(scope="package")
def tiny(tmp_path_factory) -> SweepResults:
    """A sweep of two datasets on the tiny model, run by the Python interface and judged by a word list."""
    import em

    out = tmp_path_factory.mktemp("python") / "out"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in tiny_sweep.environment().items():
            patch.setenv(name, value)
        sweep = em.run_sweep("dataset=insecure,secure", *TINY, "judge=word_list", f"out={out}")
    with sweep:
        yield sweep
