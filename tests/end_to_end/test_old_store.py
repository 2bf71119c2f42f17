"""A store and its sweeps as an older version of em wrote them: all of it is used again, with the same numbers."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recorded.record_store import HERE, REJUDGE, SWEEP
from support.tiny_sweep import environment

ARCHIVE = HERE / "store_3f1f9b2.tar.xz"
FIRST, AGAIN = Path("outputs/sweeps/em-c195e870"), Path("outputs/sweeps/rules-0b651a1c")
Row = dict[str, Any]
ANOTHER_INTERVAL = ("misaligned_rate", "coherent_share")
"""Rates over questions: the ends of their interval moved on purpose after 0.1.0, those of a single question did not."""


@pytest.fixture
def em(here, old) -> Callable[..., str]:
    """Runs a command in the old folder, and returns what it printed."""

    def run(*arguments: str) -> str:
        done = here(*arguments, cwd=old)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout + done.stderr

    return run


def read(path: Path) -> Row:
    return json.loads(path.read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, str]:
    """File → sha256 of the store's finished stages."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "outputs/store").rglob("*"))
        if path.is_file() and not path.name.startswith("judge_cache") and path.suffix != ".lock"
    }


def numbers(summary: Row) -> dict[str, list[Any]]:
    """Every number of a summary by what it is of, without the ends of intervals that are computed otherwise now.

    Floats to 12 digits, as other processors may round the last ones.
    """
    out = {}
    for kind in ("models", "groups"):
        for row in summary[kind]:
            for m in row["metrics"]:
                name = [kind, row["id"], *(m[k] for k in ("name", "group", "asked_with", "question_id", "label"))]
                ends = [] if m["name"] in ANOTHER_INTERVAL and m["question_id"] is None else [m["low"], m["high"]]
                out[" ".join(map(str, name))] = [*(m[k] for k in ("value", "n", "excluded")), *ends]
    for kind in ("contrasts", "increases"):
        for c in summary[kind]:
            out[f"{kind} {c['name']} {c['metric']} {c['group']}"] = c["value"]
    for row in summary["thresholds"]:
        out[f"thresholds {row['group']}"] = row["rate"]
    for row in summary["trajectories"]:
        ends = () if row["name"] in ANOTHER_INTERVAL else ("low", "high")
        points = [[p[k] for k in ("step", "value", "n", *ends)] for p in row["points"]]
        out[f"trajectory {row['label']} {row['name']} {row['of']} {row['set']}"] = points
    for rubric, measured in summary["judge"]["quality"].items():
        out[f"quality {rubric}"] = [measured["auc"], measured["n"]]
    return {name: rounded(value) for name, value in out.items()}


def rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value


def answers_counted(summary: Row) -> dict[str, list[Any]]:
    """How many answers were judged, and why others were not: the probe's scores, all fitted anew, have no part."""
    found = numbers(summary)
    return {name: v[1:3] for name, v in found.items() if " coherent_share open" in name or " careless_rate adv" in name}


def require_same(old: Row, new: Row, of: Callable[[Row], dict[str, list[Any]]] = numbers) -> None:
    """Fail where a number of the old summary is another now, or gone."""
    was, found = of(old), of(new)
    moved = [f"{name}: {value} → {found.get(name)}" for name, value in was.items() if found.get(name) != value]
    assert was and not moved, "\n".join(moved[:20])


def require_nothing_run(counters: Row) -> None:
    for name in ("stages_run", "model_loads", "engine_starts", "judge_calls"):
        assert counters[name] == 0, counters


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    """The folder as the old version left it."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def was(old) -> dict[Path, Row]:
    """Sweep folder → its summary and its cells as the old version wrote them."""
    return {
        sweep: {name: read(old / sweep / f"{name}.json") for name in ("summary", "sweep")} for sweep in (FIRST, AGAIN)
    }


def test_a_sweep_from_before_a_config_group_and_a_field_resumes(em, old, was):
    """sweep.json of a time before `budget` and before two fields: they are at their defaults.

    The probe's version was raised after 0.1.0: it judges the stored answers. Nothing is trained or sampled.
    """
    before = contents(old)
    path = old / FIRST / "sweep.json"
    sweep = read(path)
    for row in sweep["cells"]:
        del row["config"]["budget"]
        del row["config"]["sample"]["timeout_s"], row["config"]["stats"]["alignment_grid"]
    path.write_text(json.dumps(sweep))
    assert "10 stage jobs to do, 14 reused" in em("resume", str(FIRST))
    summary, cells = read(old / FIRST / "summary.json"), read(path)["cells"]
    assert summary["counters"]["engine_starts"] == 0
    require_same(was[FIRST]["summary"], summary, answers_counted)
    for a, b in zip(was[FIRST]["sweep"]["cells"], cells, strict=True):
        assert [a[k] for k in ("id", "kind", "label")] == [b[k] for k in ("id", "kind", "label")]
        assert {**a["stages"], "judge": None} == {**b["stages"], "judge": None}
    assert before.items() <= contents(old).items()
    assert len(list((old / "outputs/sweeps").iterdir())) == 2


def test_the_same_command_finds_all_of_it(old):
    """Without its report, which `em resume` has just written."""
    command = [sys.executable, "-m", "em.run", "-m", *SWEEP, "launch.stages=[train,sample,judge]"]
    done = subprocess.run(command, cwd=old, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "0 stage jobs to do, 24 reused" in done.stderr, done.stderr[-3000:]
    assert [path.name for path in (old / "outputs/sweeps").iterdir() if path.name.startswith("em-")] == [FIRST.name]


def test_report_and_status_read_it(em, old):
    """From the summary that the old version wrote."""
    (old / AGAIN / "report.html").unlink(missing_ok=True)
    printed = em("report", str(AGAIN))
    assert "45.0% [22.8, 69.4]" in printed and "50.0% [27.4, 72.6]" in printed
    assert (old / AGAIN / "report.html").stat().st_size > 10_000
    assert "careful_advice" in em("status", str(AGAIN))


def test_rejudging_with_the_same_judge_runs_no_stage(em, old, was):
    assert "0 stage jobs to do, 24 reused" in em("rejudge", str(FIRST), *REJUDGE)
    summary = read(old / AGAIN / "summary.json")
    require_nothing_run(summary["counters"])
    require_same(was[AGAIN]["summary"], summary)


def test_replies_of_the_old_judge_are_found_in_its_cache(em, old, was):
    """The judge's stages are gone, what it said is not: nobody is asked again."""
    cells = was[AGAIN]["sweep"]["cells"]
    for key in {key for cell in cells for key in cell["stages"]["judge"]}:
        folder = old / "outputs/store/judge" / key
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    em("rejudge", str(FIRST), *REJUDGE)
    summary = read(old / AGAIN / "summary.json")
    counters = summary["counters"]
    assert (counters["stages_run"], counters["judge_calls"], counters["judge_cache_hits"]) == (10, 0, 340)
    require_same(was[AGAIN]["summary"], summary)


@pytest.mark.slow
def test_another_judge_asks_about_the_old_answers(em, old):
    """In CI the old judge does so, whose stages are gone, and another one on new answers (commands/test_sweeps.py)."""
    printed = em("rejudge", str(FIRST), "judge=word_list", "tracking=off", "name=words")
    (folder,) = (old / "outputs/sweeps").glob("words-*")
    summary = read(folder / "summary.json")
    assert (summary["counters"]["stages_run"], summary["counters"]["engine_starts"]) == (10, 0)
    assert "judges probe / word_list" in printed
    assert all(model["status"] == "done" for model in summary["models"])
