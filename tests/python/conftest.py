import pytest

from em.python.results import SweepResults
from support import tiny_sweep


@pytest.fixture(scope="package")
def tiny(tmp_path_factory, copy_of_two_variants) -> SweepResults:
    """Finished answers of two variants and the untouched model, judged by a word list in the Python interface."""
    import em

    out = tmp_path_factory.mktemp("python") / "out"
    copy_of_two_variants(out)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in tiny_sweep.environment().items():
            patch.setenv(name, value)
        sweep = em.run_sweep(*tiny_sweep.TINY, *tiny_sweep.TWO_VARIANTS[:-2], "judge=word_list", f"out={out}")
    with sweep:
        yield sweep
