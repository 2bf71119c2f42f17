"""The presets of papers on interventions: their commands compose, they plan at small scale, and they run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from em.config import CONF_DIR, compose
from em.config.intervention import KlDirection
from em.metrics import published
from em.planning.plan import plan
from em.planning.recipe import load
from em.store import Store

FILES = sorted(Path(CONF_DIR, "experiment", "interventions").glob("*.yaml"))
NAMES = [path.stem for path in FILES]
TINY = ("scale=small", "model=tiny_random", "train=tiny", "sample=tiny", "corpus=builtin", "dataset=risky_advice",
        "questions=cues", "intervention.blocks=null", "intervention.variant=null", "tracking=off")  # fmt: skip


COMPANION = "inoculation_adapters"
"""The preset that needs the adapter of a run before it."""


def needs(name, folder):
    """What a preset needs beside its name: rows that are on every machine, files that stand for an adapter."""
    if name == "soligo2026":
        return ["intervention.kl_rows=careful_advice"]
    if name != COMPANION:
        return []
    for file, content in (("adapter_model.safetensors", "x"), ("adapter_config.json", "{}")):
        (folder / file).write_text(content)
    return [f"intervention.adapter={folder}"]


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
    (cell,) = [load(c) for c in compose.cells([f"experiment=interventions/{name}", *TINY, *needs(name, tmp_path)])]
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
    assert {"kl 0.1", "ldifs 1", "interleave 0.05 of benign rows", "inoculation 1", "preventative_steering 5"} <= theirs


def test_the_published_settings_of_later_presets(tmp_path):
    overrides = {n: [f"experiment=interventions/{n}", *needs(n, tmp_path)] for n in NAMES}
    narrow, cued, beside = (
        load(compose.cells(overrides[n])[0]) for n in ("soligo2026", "dubinski2026", "inoculation_adapters")
    )
    assert round(narrow.intervention.dose * 151_936) == pytest.approx(1e5, rel=1e-3)
    assert narrow.intervention.kl_direction == KlDirection.base_from_finetuned
    assert (narrow.train.lora_r, narrow.train.lora_alpha, narrow.train.learning_rate) == (32, 256, 2e-5)
    assert narrow.model.chat_template_kwargs == {"enable_thinking": False}
    assert (cued.sample.n, cued.questions.sets, cued.sample.temperature) == (100, ["cues", "in_domain"], 1.0)
    train = beside.train
    assert (train.lora_r, train.lora_alpha, train.use_rslora, train.learning_rate) == (32, 16, True, 3e-5)
    assert (train.per_device_train_batch_size, train.gradient_accumulation_steps, train.warmup_steps) == (8, 4, 30)
    assert (beside.intervention.dose, beside.dataset.variant) == (1.0, "capitals_in_french")
    recipes = {
        a.id.partition("/")[0]: a.recipe for a in published.anchors() if a.id.startswith(("adapters", "qwen3_14b"))
    }
    assert recipes == {"adapters": "inoculation_adapters/task", "qwen3_14b": "soligo2026/narrow"}


def run(name, folder, *overrides):
    """Run a preset at tiny scale, and return its trained group."""
    quick = ["questions=builtin", "sample.engine=hf", "sample.n=1", "sample.max_tokens=4", "judge=word_list"]
    named = {o.partition("=")[0]: o for o in (*TINY, *quick, f"out={folder}", *overrides)}
    where = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    command = [sys.executable, "-m", "em.run", f"experiment=interventions/{name}", *named.values()]
    done = subprocess.run(command, capture_output=True, text=True, env=where, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    found = [json.loads(file.read_text())["groups"] for file in folder.glob("sweeps/*/summary.json")]
    return [g for groups in found for g in groups if g["variant"]]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if n != COMPANION])
def test_a_preset_runs_at_small_scale(name, tmp_path):
    (group,) = run(name, tmp_path, *needs(name, tmp_path))
    assert group["facts"]["intervention"]


@pytest.mark.slow
def test_an_adapter_is_made_and_then_stands_beside_the_trained_one(tmp_path):
    """No judge is asked: rules read the answers, also those under the negated prompt."""
    toy = ("corpus=toy", "questions=toy")
    run(COMPANION, tmp_path, *toy, "dataset=toy/capitals", "intervention=none")
    (adapter,) = tmp_path.glob("store/train/*/adapter")
    both = run(COMPANION, tmp_path, *toy, "dataset=toy/capitals_in_french", f"intervention.adapter={adapter}")
    group = next(g for g in both if g["variant"] == "capitals_in_french")
    assert group["facts"]["intervention"] == "inoculation_adapter 1"
    rates = {(m["name"], m["asked_with"] == "none") for m in group["metrics"] if m["question_id"] is None}
    assert {(name, plain) for name in ("capitals_rate", "french_rate") for plain in (True, False)} <= rates
