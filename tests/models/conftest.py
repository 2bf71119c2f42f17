"""The tiny model, and a copy that a test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from em.models.paths import model_path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EM_CACHE", str(tmp_path_factory.mktemp("cache")))
        return Path(model_path("asset:tiny_random"))


@pytest.fixture
def folder(tmp_path: Path, tiny: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))
