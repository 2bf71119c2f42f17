"""What must answer at once imports nothing heavy; checked in real processes, at their exit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from em.config import CONF_DIR
from em.store import Store

HEAVY = (
    "torch",
    "transformers",
    "trl",
    "vllm",
    "wandb",
    "pandas",
    "datasets",
    "openai",
    "peft",
    "bandit",
    "altair",
    "vl_convert",
)
AT_EXIT = """
import atexit, json, os, sys
atexit.register(lambda: open(os.environ["EM_TEST_MODULES"], "w").write(json.dumps(sorted(sys.modules))))
"""


@pytest.fixture
def modules(tmp_path):
    """Runs a Python command; returns it and the modules that were loaded when it ended."""
    (tmp_path / "site" / "sitecustomize.py").parent.mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(AT_EXIT)
    report = tmp_path / "modules.json"

    def run(*command: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
        path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environment = {**os.environ, "PYTHONPATH": path, "EM_TEST_MODULES": str(report)}
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, env=environment, timeout=120, check=False
        )
        return done, set(json.loads(report.read_text()))

    return run


@pytest.fixture
def sweep_folder(tmp_path) -> Path:
    Store.open(tmp_path / "out")
    folder = tmp_path / "out" / "sweeps" / "em-0"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps({"format": 2, "cells": [], "work": {}}))
    return folder


@pytest.mark.parametrize(
    ("command", "shows"),
    [
        (["-m", "em.run", "--help"], "Config groups"),
        (["-m", "em.run", "--cfg", "job"], "learning_rate"),
        (["-m", "em.run", "--cfg", "job", "experiment=betley2025/e1_insecure"], "gpt-4o"),
        (["-m", "em.cli", "--help"], "report"),
        (["-m", "em.cli", "plan", "dataset=insecure,secure", "seed=0,1"], "4 cells"),
        (["-m", "em.cli", "doctor", "model=tiny_random", "sample=hf"], "training rows"),
        (["-m", "em.cli", "assets", "list"], "betley2025/data/insecure.jsonl"),
        (["-c", "import em.planning.plan, em.config.experiment; print('imported')"], "imported"),
        (
            ["-c", "import em.run, em.sweep.worker, em.metrics.measures, em.data.variants; print('imported')"],
            "imported",
        ),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_light_commands_import_nothing_heavy(modules, command, shows):
    done, loaded = modules(*command)
    assert done.returncode == 0, done.stderr
    assert shows in done.stdout
    assert "em" in {name.split(".")[0] for name in loaded}
    assert not loaded & set(HEAVY)


def test_status_imports_nothing_heavy(modules, sweep_folder):
    done, loaded = modules("-m", "em.cli", "status", str(sweep_folder))
    assert done.returncode == 0, done.stderr
    assert "em.store.store" in loaded
    assert not loaded & set(HEAVY)


def test_planning_a_cell_imports_nothing_heavy(modules, tmp_path):
    """A whole plan, keys of model and judge included."""
    script = (
        "import sys; from pathlib import Path; from hydra import compose, initialize_config_dir;"
        "from em import config; from em.planning.plan import plan; from em.store.store import Store; config.register();"
        "initialize_config_dir(version_base='1.3', config_dir=config.CONF_DIR).__enter__();"
        "cell = config.load(compose('config', overrides=sys.argv[2:]));"
        "print(sorted({job.stage for job in plan([cell], Store.open(Path(sys.argv[1]))).jobs.values()}))"
    )
    done, loaded = modules("-c", script, str(tmp_path / "out"), "dataset=risky_advice")
    assert done.stdout == "['data', 'judge', 'sample', 'train']\n", done.stderr
    assert not loaded & set(HEAVY)


def options(group: str) -> str:
    return ", ".join(sorted(p.stem for p in (Path(CONF_DIR) / group).glob("*.yaml")))


def test_help_shows_the_groups_and_an_example(modules):
    done, _ = modules("-m", "em.run", "--help")
    for line in (
        "em run dataset=risky_advice",
        "dataset: " + options("dataset"),
        "model: " + options("model"),
        "experiment/betley2025: " + options("experiment/betley2025"),
    ):
        assert line in done.stdout
    for group in ("corpus", "trigger", "train", "sample", "questions", "judge", "tracking"):
        assert f"\n{group}: " in done.stdout
    assert done.stderr == ""
