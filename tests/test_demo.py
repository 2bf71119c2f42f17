"""launch/demo.sh: its steps in order, and its last line. The commands are recorded, not run."""

import os
import pty
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FAKE = """#!/bin/sh
echo "${0##*/} $*" >> commands.txt
case "$*" in
  plan*) echo "6 cells → outputs/sweeps/em-demo" ;;
  *system_prompt*) echo "summary  outputs/sweeps/em-prompted/summary.json"; echo "counters x 1" ;;
  "judge calibrate"*) echo "judge probe: AUC" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    for name in ("em", "python"):
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(FAKE)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def test_the_last_line_is_the_demos_own_report(checkout):
    command = ["sh", str(ROOT / "launch" / "demo.sh"), "bin"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "report   outputs/sweeps/em-demo/report.html"
    assert "Open the report" not in done.stdout
    said = (checkout / "commands.txt").read_text().splitlines()
    assert said[0].startswith("python -m em.run -m dataset=insecure,") and not any(
        s.startswith("em show") for s in said
    )
    assert said[-1].startswith("em rejudge outputs/sweeps/em-prompted judge=vllm_local")


@pytest.mark.parametrize(("typed", "opened"), [("y\n", True), ("\n", False)])
def test_on_a_terminal_it_offers_to_open_it(checkout, typed, opened):
    master, slave = pty.openpty()
    command = ["sh", str(ROOT / "launch" / "demo.sh"), "bin"]
    child = subprocess.Popen(command, cwd=checkout, stdin=slave, stdout=slave, stderr=slave, env={**os.environ})
    os.write(master, typed.encode())
    assert child.wait(60) == 0
    os.close(slave)
    seen = os.read(master, 100_000).decode().split("\r\n")
    assert any("in a browser? [y/N]" in line for line in seen)
    assert seen[-2] == "report   outputs/sweeps/em-demo/report.html"
    assert ("em show outputs/sweeps/em-demo" in (checkout / "commands.txt").read_text()) is opened
