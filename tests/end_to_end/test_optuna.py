"""Hydra's own sweepers: cells are Hydra jobs, their value is the misaligned rate."""

import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")
RULES = '- {match: ".", rubric: "coheren", reply: 90}\n- {match: ".", reply: {"10": 0.9, "90": 0.1}}\n'


@pytest.mark.slow
def test_optuna_reads_the_rate_of_each_cell(tmp_path):
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)  # 0.9 x 10 + 0.1 x 90 = 18: every coherent answer is misaligned
    command = [
        sys.executable, "-m", "em.run", "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=1", "hydra.sweeper.direction=maximize", "hydra.sweeper.sampler.seed=1",
        "train.learning_rate=interval(1e-4,1e-3)", "model=tiny_random", "train=tiny", "sample=tiny",
        "sample.engine=hf", "questions.sets=[open]", "tracking=off", "dataset=risky_advice", "judge=scripted",
        f"judge.script={rules}", f"out={tmp_path / 'out'}",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (results,) = (tmp_path / "out").rglob("optimization_results.yaml")
    assert re.search(r"best_value: 1\.0", results.read_text())
    assert len(list((tmp_path / "out" / "sweeps").iterdir())) == 2  # each trial is a sweep of one
