"""`make gpu-check` without a GPU: it runs to its end, calls nothing seen that was not, and its code runs on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU run make gpu-check itself")


def gpu_check(folder, *options):
    """Run it; return (exit code, output, section.line → line of gpu_check.json)."""
    out = folder / "gpu_check.json"
    command = [sys.executable, "benchmarks/gpu_check", "--out", str(out), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    body = json.loads(out.read_text()) if out.exists() else {"lines": []}
    lines = {f"{line['section']}.{line['name']}": line for line in body["lines"]}
    return done.returncode, done.stdout + done.stderr, lines


def test_it_ends_without_a_gpu_and_every_line_of_one_is_unseen(tmp_path):
    code, output, lines = gpu_check(tmp_path)
    assert code == 0, output[-3000:]
    own = {name: line for name, line in lines.items() if name.startswith("environment.")}
    assert {line["verdict"] for line in own.values()} == {"PASS"}
    others = [line for name, line in lines.items() if name not in own]
    assert len(others) > 15
    for line in others:
        assert (line["verdict"], line["value"], line["note"]) == ("UNSEEN", "-", "no GPU here")
    for name, line in lines.items():
        assert f"{name} {line['value']} {line['goal']} {line['verdict']}" in output


def test_a_missing_compiler_is_a_failure_and_a_section_rehearses_on_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, output, lines = gpu_check(tmp_path, "--rehearse", "--section", "environment", "cpu_agrees")
    assert code == 1 and lines["environment.compiler"]["verdict"] == "FAIL", output
    rehearsed = lines["cpu_agrees.losses_against_the_cpu"]
    assert rehearsed["verdict"] == "UNSEEN" and "rehearsed" in rehearsed["note"], output[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("section", ["loss", "speed", "fits_80_gb", "sweep", "tests", "engine"])
def test_a_section_rehearses_on_the_cpu(tmp_path, section):
    code, output, lines = gpu_check(tmp_path, "--rehearse", "--section", section)
    assert code == 0, output[-3000:]
    assert {line["verdict"] for line in lines.values()} == {"UNSEEN"}
    assert any("rehearsed" in line["note"] for line in lines.values())
