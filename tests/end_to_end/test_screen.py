"""`em screen` as it is typed: rows, own answers, direction, scores, files; a second time nothing is made."""

import csv
import json
import subprocess
import sys

import pytest

from em.store import Store
from em.sweep import inventory
from support.tiny_sweep import environment

CONTRAST = ["direction=contrast", "direction.plus=risky_advice", "direction.minus=careful_advice", "direction.most=20"]


@pytest.mark.slow
def test_a_screening(tmp_path):
    command = [sys.executable, "-m", "em.cli", "screen", "model=tiny_random", "sample=tiny", "sample.engine=hf"]
    command += [f"out={tmp_path}", "dataset=risky_advice,careful_advice", "train.max_examples=12", *CONTRAST]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "screens").iterdir()
    found = json.loads((folder / "screen.json").read_text())
    assert [one["scored"] for one in found] == [12, 12] and all(one["low"] < one["mean"] for one in found)
    rows = list(csv.DictReader((folder / "rows.csv").open()))
    scores = [float(row["score"]) for row in rows]
    assert len(rows) == 24 and scores == sorted(scores, reverse=True)
    assert all(float(r["score"]) == pytest.approx(float(r["answer"]) - float(r["own"])) for r in rows)
    store = Store.open(tmp_path)
    assert inventory.unneeded(inventory.sweeps(tmp_path), store).stages == () and store.keys("sample")
    assert (folder / "screen.svg").is_file() and "risky_advice: shift against the model's own" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=280)
    assert "0 stage jobs to do" in again.stderr and again.returncode == 0
