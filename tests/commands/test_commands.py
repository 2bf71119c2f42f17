"""em plan, resume and why on a store with finished stages made by hand."""

import json
import subprocess
import sys

import pytest

from em import slurm
from em.planning.cells import cell_id
from em.planning.plan import plan
from em.store import Store
from em.sweep.folder import configs_of
from support.sweeps import finish, write_sweep

TINY = ["model=tiny_random", "train=tiny", "sample=tiny", "dataset=risky_advice", "questions.sets=[open]"]


@pytest.fixture
def done(compose, tmp_path):
    """A finished sweep of one cell. Returns its config, store and sweep."""
    out = tmp_path / "out"
    config = compose(*TINY, f"out={out}")
    store = Store.open(out)
    made = write_sweep([config], store)
    finish(store, made.plan, "data", "train", "sample", "judge")
    return config, store, made


def test_plan_says_what_is_reused_and_makes_nothing(done, tmp_path, here):
    _, store, _ = done
    shown = here("plan", *TINY, f"out={store.root.parent}", "seed=0,1")
    assert shown.returncode == 0, shown.stderr
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert lines[0].startswith("2 cells → ")
    assert "untouched base model 1/1 1/1" in lines
    assert "risky_advice seed=0 1/1 1/1 1/1 1/1" in lines
    assert "risky_advice seed=1 0/1 0/1 0/1 0/1" in lines
    assert any(line.startswith("train 1 1 ") and "CPU" not in line for line in lines)
    assert here("plan", "-m", *TINY, f"out={store.root.parent}", "seed=0,1").stdout == shown.stdout
    fresh = here("plan", *TINY, f"out={tmp_path / 'nothing'}")
    assert fresh.returncode == 0
    assert not (tmp_path / "nothing").exists()


def test_a_submitted_stage_has_the_sweeps_cells_and_its_part_of_the_cap(compose, tmp_path):
    """From wherever the folder is now, as `em resume` has them."""
    config = compose(*TINY, f"out={tmp_path / 'out'}", "judge.max_dollars=6")
    made = write_sweep([config], Store.open(tmp_path / "out"))
    (tmp_path / "out").rename(tmp_path / "moved")
    folder = tmp_path / "moved" / "sweeps" / made.folder.name
    (cell,) = slurm._configs(folder, "judge", 2)
    assert (cell.launch.stages, cell.judge.max_dollars, cell.out) == (["judge"], 3.0, str(tmp_path / "moved"))
    (resumed,) = configs_of(folder)
    assert cell_id(resumed) == cell_id(config)
    assert resumed.launch == config.launch and resumed.judge == config.judge


def test_plan_beyond_the_budget_is_refused_and_so_is_the_run(tmp_path, here):
    caps = [*TINY, f"out={tmp_path / 'out'}", "budget.max_disk_gb=0.0001"]
    shown = here("plan", *caps)
    assert shown.returncode == 1
    assert "refused: " in shown.stdout and "budget.max_disk_gb is 0.0001" in shown.stdout
    run = subprocess.run([sys.executable, "-m", "em.run", *caps], capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("em: this sweep is expected to take")
    assert not list((tmp_path / "out" / "store").glob("train/*"))


def test_plan_of_a_wrong_override_is_a_sentence(here):
    shown = here("plan", "dataset=insecur")
    assert shown.returncode == 1 and shown.stderr.startswith("em: ") and "Traceback" not in shown.stderr
    shown = here("plan", "model.path=./nowhere")
    assert shown.returncode == 1 and "./nowhere" in shown.stderr and "Traceback" not in shown.stderr


def test_why_says_which_inputs_differ_from_the_nearest_finished(done, compose, here):
    config, store, _ = done
    out = store.root.parent
    other = compose(*TINY, f"out={out}", "train.learning_rate=0.5", "seed=3", "train.lora_r=4")
    near = compose(*TINY, f"out={out}", "train.learning_rate=0.5")
    finish(store, plan([near], store), "data", "train")
    made = write_sweep([config, other], store)
    cell = made.plan.cells[1]
    made.fail(made.plan.jobs["train", cell.train_key], "there is no such module")
    shown = here("why", cell.id, "--out", str(out))
    assert shown.returncode == 0, shown.stderr
    text = " ".join(shown.stdout.split())
    (near_key,) = [j.key for j in plan([near], store).stage("train")]
    # nearest of the two finished ones: the same learning rate; the data drawn by another seed
    assert f"train {cell.train_key} missing; nearest finished: {near_key}, which differs in 3 inputs:" in text
    assert "data.seed: 0 there, 3 here" in text
    assert text.count("failed: train: there is no such module") == 1
    assert "recipe.lora_r: 8 there, 4 here" in text
    assert "recipe.learning_rate" not in text.split("sample")[0]
    assert "adapter.recipe.learning_rate: 0.01 there, 0.5 here" in text  # of the finished answers


def test_why_of_a_finished_cell_and_of_more_answers(done, compose, here):
    _, store, made = done
    out = store.root.parent
    shown = here("why", made.plan.cells[0].label, "--out", str(out))
    assert [line.split()[0] for line in shown.stdout.splitlines()[2::2]] == ["done:"] * 4
    more = write_sweep([compose(*TINY, f"out={out}", "sample.n=5")], store)
    shown = here("why", more.plan.cells[0].id, "--out", str(out))
    assert "missing; finished of the same answers: 0-2" in shown.stdout


def test_why_of_an_unknown_cell_lists_those_there_are(done, here):
    _, store, made = done
    shown = here("why", "nope", "--out", str(store.root.parent))
    assert shown.returncode == 1
    assert made.plan.cells[0].id in shown.stderr and shown.stderr.count("\n") == 1


def test_resume_needs_no_overrides_and_takes_the_folder_where_it_is_now(compose, tmp_path, here):
    """The cells of sweep.json, run in the folder they are in now: here the data is malformed, so it ends early."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    out = tmp_path / "before"
    custom = compose(*TINY, "corpus=custom", f"corpus.path={rows}", "dataset=custom", f"out={out}", "tracking=off")
    write_sweep([custom], Store.open(out))
    out.rename(tmp_path / "after")
    rows.write_text('{"messages": []}\n')
    (folder,) = (tmp_path / "after" / "sweeps").iterdir()
    shown = here("resume", str(folder))
    assert shown.returncode == 1
    assert "rows.jsonl:1: expected" in shown.stderr and "Traceback" not in shown.stderr
    assert not out.exists()


def test_status_of_an_older_sweep_is_a_sentence(done, here):
    _, _, made = done
    path = made.folder / "sweep.json"
    path.write_text(json.dumps({"format": 1, "cells": []}))
    shown = here("status", str(made.folder))
    assert shown.returncode == 1 and "has format 1" in shown.stderr
