"""Helpers shared by the tests: composed configs, the paper's files when they are at hand, judged rows."""

from __future__ import annotations

import gc
import os
import subprocess
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest
import yaml
from hydra import initialize_config_dir
from hypothesis import HealthCheck, settings
from omegaconf import DictConfig

from em.config import CONF_DIR, ExperimentConfig
from em.config.compose import Composer
from em.config.experiment import register
from em.planning import recipe
from em.runtime import terminal
from support import command, tiny_sweep

settings.register_profile(
    "em", deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("em")
register()


def pytest_configure() -> None:
    gc.disable()  # until all is imported: a search for garbage on the way finds none


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays: the search after each training run need not look at it
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # in a worker of pytest-xdist: one process keeps the order of the folders
        from support import schedule

        items.sort(key=lambda item: schedule.rank(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object | None:
    if config.getoption("dist") != "loadscope":
        return None
    from support import schedule

    config.option.loadscopereorder = False  # by the number of tests: a module of few long ones would begin last
    return schedule.LongestFirst(config, log)


@pytest.fixture(scope="session")
def composed() -> Callable[..., DictConfig]:
    """What the overrides of one cell give, before `em.config.experiment.load`."""
    composer = Composer("config")  # Hydra alone takes 0.15 s for each; config/test_compose.py compares them

    @cache
    def make(*overrides: str) -> DictConfig:
        with initialize_config_dir(version_base="1.3", config_dir=CONF_DIR):
            return composer.cell(overrides)

    return make


@pytest.fixture(scope="session")
def compose(composed: Callable[..., DictConfig]) -> Callable[..., ExperimentConfig]:
    """A typed config from overrides, as the command line gives it."""
    return lambda *overrides: recipe.load(composed(*overrides))


@pytest.fixture(scope="session")
def copy_of_two_variants(tmp_path_factory, worker_id) -> Callable[[Path], Path]:
    """Copies a finished sweep of two variants on the tiny model to a folder; the sweep is made once for all workers."""
    folder = tmp_path_factory.getbasetemp()
    return partial(tiny_sweep.two_variants, folder if worker_id == "master" else folder.parent)


@pytest.fixture
def two_variants(copy_of_two_variants, tmp_path) -> Path:
    """The folder of a finished sweep of two variants on the tiny model: a copy, which the test may change."""
    return copy_of_two_variants(tmp_path / "two_variants")


@pytest.fixture
def here(monkeypatch, capsys) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `em` in this process, which saves its imports; returns what `subprocess.run` would."""
    for name, value in tiny_sweep.environment().items():
        monkeypatch.setenv(name, value)

    def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        if cwd:
            monkeypatch.chdir(cwd)
        # --quiet and --verbose count for a whole process
        monkeypatch.setattr(terminal._Screen, "level", terminal.Level.normal)
        code = command.em(monkeypatch, *arguments)
        shown = capsys.readouterr()
        said = f"em: {code.removeprefix('em: ')}\n" if isinstance(code, str) else ""
        return subprocess.CompletedProcess(arguments, 1 if said else code, shown.out, shown.err + said)

    return run


@pytest.fixture
def paper() -> Path:
    """The folder with the paper's own files, the first of EM_ASSETS; the test is skipped without one."""
    folder = os.environ.get("EM_ASSETS")
    if not folder:
        pytest.skip("EM_ASSETS is not set: it names a folder with the paper's files (see `em assets list`)")
    return Path(folder.split(os.pathsep)[0])


@pytest.fixture
def rules(tmp_path):
    """Write rules of a scripted judge to a file, and return its path."""

    def make(rows, name="rules.yaml"):
        path = tmp_path / name
        path.write_text(yaml.safe_dump(rows, allow_unicode=True))
        return path

    return make
