"""The presets of papers on interventions: their commands compose, they plan at small scale, and they run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from em.config import CONF_DIR, compose
from em.metrics import published
from em.planning.plan import plan
from em.planning.recipe import load
from em.store import Store

FILES = sorted(Path(CONF_DIR, "experiment", "interventions").glob("*.yaml"))
NAMES = [path.stem for path in FILES]
TINY = ("scale=small", "model=tiny_random", "train=tiny", "sample=tiny", "corpus=builtin", "dataset=risky_advice",
        "questions=cues", "intervention.blocks=null", "intervention.variant=null", "tracking=off")  # fmt: skip


def commands(path):
    """The command lines that a preset states, as overrides without seeds."""
    stated = [line.split("em.run ")[1].split() for line in path.read_text().splitlines() if "em.run " in line]
    return [[o for o in overrides if o != "-m" and "seed=" not in o] for overrides in stated]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_commands_that_a_preset_states_compose_to_different_cells(path):
    cells = [load(cell) for overrides in commands(path) for cell in compose.cells(overrides)]
    assert len(cells) == len({str(cell) for cell in cells}) > 1
    assert {cell.name for cell in cells} == {path.stem}
    assert "arXiv" in path.read_text() or path.stem == "tan2025"


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_plans_at_small_scale(name, tmp_path):
    (cell,) = [load(c) for c in compose.cells([f"experiment=interventions/{name}", *TINY])]
    assert cell.intervention.active
    assert {job.stage for job in plan([cell], Store.open(tmp_path)).jobs.values()} == {
        "data",
        "train",
        "sample",
        "judge",
    }


def test_the_published_settings():
    chosen = {n: load(compose.cells([f"experiment=interventions/{n}"])[0]) for n in NAMES}
    steered, caft, kl, realign = (chosen[n] for n in ("chen2025", "casademunt2025", "kaczer2025", "wang2025"))
    assert (steered.intervention.dose, steered.intervention.blocks, steered.model.name) == (5.0, [19], "qwen2_5_7b")
    assert (caft.intervention.dose, caft.intervention.blocks) == (1.0, [12, 32, 50])
    assert (kl.intervention.dose, kl.intervention.kl_tokens.value) == (0.1, "all")
    assert (kl.train.learning_rate, kl.train.lora_r, kl.train.lora_alpha, kl.train.use_rslora) == (1e-4, 32, 64, True)
    assert (realign.intervention.dose, realign.train.max_examples, realign.train.lora_r) == (1.0, 2000, 32)
    named = {a.recipe for a in published.anchors() if a.id.startswith("kaczer/")}
    assert named == {"kaczer2025"}
    theirs = {a.intervention for a in published.anchors() if a.intervention}
    assert f"realign 1 on {realign.intervention.variant}" in theirs and "realign 0.02 on secure" in theirs
    assert {"kl 0.1", "ldifs 1", "interleave 0.05", "inoculation 1", "preventative_steering 5"} <= theirs


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_preset_runs_at_small_scale(name, tmp_path):
    quick = ["questions=builtin", "sample.engine=hf", "sample.n=1", "sample.max_tokens=4", "judge=word_list"]
    where = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    command = [sys.executable, "-m", "em.run", f"experiment=interventions/{name}", *TINY, *quick, f"out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, env=where, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (file,) = tmp_path.glob("sweeps/*/summary.json")
    (group,) = [g for g in json.loads(file.read_text())["groups"] if g["variant"]]
    assert group["facts"]["intervention"]
