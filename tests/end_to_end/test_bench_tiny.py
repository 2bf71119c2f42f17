"""Benchmarks at their tiny size: which files are run, and that a missed gate or a broken benchmark fails the target.

The benchmarks themselves run in `make bench-tiny`.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
GATED = """
from result import Result, parser

result = Result(parser(None).parse_args().tiny)
"""


def benchmark(folder, name, body):
    """Write a benchmark of its own beside the real result module, and run it as `make bench-tiny` does."""
    made = folder / "benchmarks"
    made.mkdir(exist_ok=True)
    for shared in ("result.py", "run_tiny.py"):
        (made / shared).write_text((BENCHMARKS / shared).read_text())
    (made / f"{name}.py").write_text(GATED + body)
    command = [sys.executable, "benchmarks/run_tiny.py", name]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_every_benchmark_is_in_the_tiny_run():
    listed = re.search(r"^BENCHMARKS := (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    scripts = {p.stem for p in BENCHMARKS.glob("*.py") if "from result import" in p.read_text()}
    assert scripts == {*listed, "train_gpu", "coverage", "coverage_goals"}
    helpers = {"result", "run_tiny", "judge_stub", "coverage_truth"}
    assert {p.stem for p in BENCHMARKS.glob("*.py")} - scripts == helpers


def test_a_benchmark_that_holds_is_one_line(tmp_path):
    body = 'result.gate("rows", 3, 3, True)\nresult.clock("s", 9, 1, False)\nresult.exit()'
    done = benchmark(tmp_path, "holds", body)
    assert done.returncode == 0
    assert re.fullmatch(r"holds ok: 1 gates, \d+ s\n", done.stdout), done.stdout


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ('result.gate("rows", 2, 3, False)\nresult.gate("calls", 1, 1, True)\nresult.exit()', "rows 2 3 FAIL"),
        ("raise KeyError('outcomes')", "KeyError: 'outcomes'"),
        ('result.clock("s", 0, 1, True)\nresult.exit()', "no gate was measured"),
    ],
)
def test_a_missed_gate_a_broken_benchmark_and_one_without_gates_fail(tmp_path, body, shown):
    done = benchmark(tmp_path, "fails", body)
    assert done.returncode == 1
    assert done.stdout.startswith("fails FAILED (exit code 1, ") and shown in done.stdout


@pytest.mark.parametrize(
    "body", ["raise KeyError('outcomes')", "import os; os.kill(os.getpid(), 9)", "raise SystemExit(3)"]
)
def test_a_forked_benchmark_that_ends_in_any_way_but_well_fails(tmp_path, monkeypatch, body, capfd):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import run_tiny

    monkeypatch.setattr(run_tiny, "FOLDER", tmp_path)
    for name, text in (("breaks", body), ("holds", "print('rows 1 1 PASS')")):
        (tmp_path / f"{name}.py").write_text(text)
    assert not run_tiny.report(run_tiny.start("breaks", tmp_path, True))
    assert run_tiny.report(run_tiny.start("holds", tmp_path, True))
    assert capfd.readouterr().out.count("breaks FAILED (exit code ") == 1


def test_what_a_machine_lacks_is_unseen(tmp_path):
    done = benchmark(tmp_path, "lacks", 'from result import exit_unseen\nexit_unseen("lacks", "no such device")')
    assert (done.returncode, done.stdout) == (0, "lacks unseen: no such device\n")


def test_a_clock_is_a_gate_at_full_size(tmp_path):
    (tmp_path / "full.py").write_text(GATED + 'result.clock("s", 9, 1, False)\nresult.exit()')
    command = [sys.executable, "full.py"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(BENCHMARKS)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "s 9 1 FAIL\n")
