"""The tables of docs/statistics.md are those of the stored grid."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def docs(tmp_path):
    """A copy of the page, its script and the stored grid."""
    for name in ("docs/draw_coverage.py", "docs/statistics.md", "benchmarks/coverage.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def check(folder):
    command = [sys.executable, "docs/draw_coverage.py", "--check"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_tables_are_those_of_the_stored_grid(docs):
    assert check(docs).returncode == 0


def test_another_number_in_the_grid_is_noticed(docs):
    stored = docs / "benchmarks" / "coverage.csv"
    lines = stored.read_text().splitlines()
    at = lines[0].split(",").index("cover")
    for number, line in enumerate(lines[1:], 1):
        values = line.split(",")
        if values[1] == "normal":
            values[at] = "0.5"
            lines[number] = ",".join(values)
    stored.write_text("\n".join(lines) + "\n")
    done = check(docs)
    assert done.returncode == 1 and "run python docs/draw_coverage.py" in done.stderr


def test_the_pictures_have_real_text():
    for name in ("coverage", "width"):
        assert "true rate, %</text>" in (ROOT / "docs" / "figures" / f"{name}.svg").read_text(encoding="utf-8")
