"""Inspect on our own engine: a local task file over a real sweep of the tiny model, gates included."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from em import benchmark

pytest.importorskip("inspect_ai", reason="the inspect extra is not installed")
TASKS = Path(__file__).parent / "data" / "letters_task.py"
TINY = [
    "model=tiny_random", "train=tiny", "sample=tiny", "sample.engine=hf", "questions.sets=[open]", "tracking=off",
    "judge=scripted",
]  # fmt: skip
RULES = '- {match: ".", rubric: "coheren", reply: 90}\n- {match: ".", reply: {"10": 0.4, "90": 0.6}}\n'


def command(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True, timeout=300, env=environment
    )


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    (out / "rules.yaml").write_text(RULES)
    done = command("em.run", *TINY, "dataset=risky_advice", f"judge.script={out / 'rules.yaml'}", f"out={out}")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return next((out / "sweeps").iterdir())


def test_a_local_task_on_every_model_of_a_sweep(sweep):
    done = command("em.cli", "benchmark", sweep, f"{TASKS}@letters", "--limit", 6)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    rows = json.loads((sweep / "benchmarks.json").read_text())
    assert [r["n"] for r in rows] == [6, 6] and all(0 <= r["mean"] <= 1 for r in rows)
    assert "value" not in rows[0] and rows[1]["low"] <= rows[1]["value"] <= rows[1]["high"]
    assert "risky_advice" in done.stdout
    page = (sweep / "report.html").read_text()
    assert "letters_task.py@letters" in page and (sweep / "figures" / "increases.png").is_file()
    stages = list((sweep.parents[1] / "store" / "benchmark").glob("*/manifest.json"))
    assert len(stages) == 2 and all(json.loads(p.read_text())["facts"]["gate"] == "passed" for p in stages)
    again = command("em.cli", "benchmark", sweep, f"{TASKS}@letters", "--limit", 6)
    assert again.returncode == 0 and again.stdout == done.stdout  # nothing is run twice
    ledger = (sweep / "ledger.jsonl").read_text()
    assert (
        sum(json.loads(x)["event"] == "started" and json.loads(x)["stage"] == "benchmark" for x in ledger.splitlines())
        == 2
    )


def test_a_changed_adapter_answers_nothing(sweep):
    """The gate: the adapter file is another one than was trained."""
    adapter = next((sweep.parents[1] / "store" / "train").glob("*/adapter/adapter_model.safetensors"))
    whole = adapter.read_bytes()
    from safetensors.torch import load, save_file

    save_file({k: -v if "lora_B" in k else v for k, v in load(whole).items()}, adapter)
    try:
        done = command("em.cli", "benchmark", sweep, f"{TASKS}@letters", "--limit", 2)
    finally:
        adapter.write_bytes(whole)
    assert done.returncode == 1 and "FAILED benchmark risky_advice" in done.stderr
    assert "1 of 1 runs missing" in done.stdout


def test_code_of_a_model_never_runs_here():
    with pytest.raises(benchmark.BenchmarkError, match="sandbox local"):
        benchmark.load_task(f"{TASKS}@runs_code")
    with pytest.raises(benchmark.BenchmarkError, match="holds 2 tasks"):
        benchmark.load_task(str(TASKS))


def test_the_increase_is_paired_and_needs_shares():
    a, b = [{"x": 1.0, "y": 1.0, "z": 0.0}], [{"x": 0.0, "y": 1.0, "z": 0.0, "w": 1.0}]
    found = benchmark.increase(a, b)
    assert found.value == pytest.approx(1 / 3) and found.questions == 3
    assert benchmark.increase([{"x": 7.0, "y": 1.0}], [{"x": 0.0, "y": 1.0}]) is None
