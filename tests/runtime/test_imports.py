"""Imports without the search for garbage: it pauses inside only, and stays as it was after an error too."""

import gc

import pytest

from em.runtime.imports import quick_imports


@pytest.mark.parametrize("searching", [True, False])
def test_the_search_pauses_and_is_then_as_it_was(searching):
    try:
        if not searching:
            gc.disable()
        with pytest.raises(ImportError), quick_imports():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() == searching
    finally:
        gc.enable()
