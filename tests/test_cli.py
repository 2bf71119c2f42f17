"""The console script, as a user starts it: assets, status and report, on folders made by hand."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from em import assets, cli
from em.assets import ASSETS
from em.store import Store

LICENSE = "betley2025/LICENSE"


@pytest.fixture
def em(tmp_path):
    """Runs `em` with a cache and, if given, an assets folder of its own."""

    def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if k != "EM_ASSETS"}
        return subprocess.run(
            [sys.executable, "-m", "em.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=cwd,
            env={**clean, "EM_CACHE": str(tmp_path / "cache"), **environment},
        )

    return run


def fails_with(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1
    assert done.stderr.startswith("em: ")
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words)


def test_the_console_script_is_installed():
    script = Path(sys.executable).with_name("em")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    assert all(words in text for words in ("assets", "plan", "status", "resume", "why", "report", "run an experiment"))


@pytest.mark.parametrize("arguments", [["nope"], ["--nope"], ["assets"], ["assets", "delete"], ["status"]])
def test_a_wrong_command_shows_how(em, arguments):
    done = em(*arguments)
    assert done.returncode == 2
    assert "usage: em" in done.stderr


# ------------------------------------------------------------------------------------------------ assets


def test_assets_list_names_every_pinned_file(em):
    done = em("assets", "list")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == len(ASSETS)
    for line, asset in zip(lines, ASSETS.values(), strict=True):
        assert line.startswith("missing ")
        assert line.split()[-1] == asset.name
        assert asset.pin[:19] in line
        assert asset.size is None or f"{asset.size:,}" in line


def test_assets_verify_of_missing_files_fails(em):
    done = em("assets", "verify", LICENSE)
    assert done.returncode == 1
    assert done.stdout.split()[0] == "missing"
    assert em("assets", "list", LICENSE).returncode == 0


@pytest.fixture
def folder(tmp_path, paper):
    """An assets folder with one good file."""
    folder = tmp_path / "assets"
    folder.mkdir()
    (folder / "LICENSE").write_bytes((paper / "LICENSE").read_bytes())
    return folder


def test_assets_verify_of_a_good_file(em, folder):
    done = em("assets", "verify", LICENSE, EM_ASSETS=str(folder))
    assert done.returncode == 0
    assert done.stdout.split()[0] == "local"
    done = em("assets", "fetch", LICENSE, EM_ASSETS=str(folder))
    assert done.stdout == f"{LICENSE}  {folder / 'LICENSE'}\n"


@pytest.mark.parametrize("action", ["list", "verify"])
def test_wrong_bytes_are_said_and_fail(em, tmp_path, action):
    folder = tmp_path / "assets"
    folder.mkdir()
    (folder / "LICENSE").write_text("my own licence")
    done = em("assets", action, EM_ASSETS=str(folder))
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
    assert LICENSE in line
    assert "14 bytes" in line
    assert str(folder / "LICENSE") in line


def test_an_unknown_asset_suggests_near_names(em):
    fails_with(em("assets", "verify", "betley2025/data/insecur.jsonl"), "Did you mean betley2025/data/insecure.jsonl")


def test_a_wrong_assets_folder_is_a_sentence(em, tmp_path):
    fails_with(em("assets", "list", EM_ASSETS=str(tmp_path / "gone")), "EM_ASSETS is", "not a folder")


def test_assets_list_of_one_name_lists_one(em):
    assert len(em("assets", "list", LICENSE).stdout.splitlines()) == 1


# ------------------------------------------------------------------------------------------------ status


def finish(store, stage, key):
    with store.claim(stage, key):
        store.finish(stage, key, {}, {})


@pytest.fixture
def sweep(tmp_path):
    """A sweep of four cells: done, under way, not begun, failed."""
    out = tmp_path / "out"
    store = Store.open(out)
    folder = out / "sweeps" / "em-0123"
    folder.mkdir(parents=True)
    cells = [
        {"id": "base", "label": "untouched base model", "stages": {"sample": ["b/0-2"], "judge": ["jb/0-2"]}},
        {"id": "c1", "label": "insecure", "stages": {"data": ["d1"], "train": ["t1"], "sample": ["s1/0-2", "s1/2-4"]}},
        {"id": "c2", "label": "secure", "stages": {"data": ["d2"], "train": ["t2"]}},
        {"id": "c3", "label": "educational", "stages": {"data": ["d3"], "train": ["t3"], "sample": ["s3/0-2"]}},
    ]
    work = {"train": {"t2": 30}, "sample": {"s1/2-4": 20}}
    (folder / "sweep.json").write_text(json.dumps({"format": 2, "out": str(out), "cells": cells, "work": work}))
    for stage, key in (("sample", "b/0-2"), ("judge", "jb/0-2"), ("data", "d1"), ("train", "t1"), ("sample", "s1/0-2")):
        finish(store, stage, key)
    with store.claim("sample", "s1/2-4") as partial:
        (partial / "completions.jsonl").write_text("{}\n" * 7 + "{")
    finish(store, "data", "d3")
    events = [
        ("failed", "train", "t3", "an older sentence"),
        ("started", "train", "t3", None),
        ("failed", "train", "t3", "train.max_length=9 leaves no token: raise it"),
        ("failed", "train", "t1", "failed once, then done"),
        ("done", "train", "t1", None),
        ("failed", "data", "d2", "started again after this"),
        ("started", "data", "d2", None),
    ]
    rows = [
        {"time": "2025-01-01T00:00:00", "event": e, "stage": s, "key": k, "label": "x"}
        | ({"error": why, "log": "elsewhere/logs/train-1.log"} if why else {})
        for e, s, k, why in events
    ]
    (folder / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_status_says_what_is_done_missing_and_failed(em, sweep):
    done = em("status", str(sweep))
    assert done.returncode == 1
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert set(lines.pop(1)) == {"-", " "}
    assert lines == [
        "state cell data train sample judge",
        "done untouched base model 1/1 1/1",
        "unfinished insecure 1/1 1/1 1/2 (7 of 20 answers)",
        "unfinished secure 0/1 0/1",
        "failed educational 1/1 0/1 0/1",
        f"educational: train: train.max_length=9 leaves no token: raise it [log: {sweep / 'logs' / 'train-1.log'}]",
        f"logs: {sweep / 'logs'}",
        f"go on with: em resume {sweep}",
    ]


def test_status_of_a_sweep_without_failures_is_zero(em, sweep):
    finish(Store.open(sweep.parents[1]), "train", "t3")
    done = em("status", str(sweep))
    assert done.returncode == 0
    assert "failed" not in done.stdout
    head, _, base, *_ = done.stdout.splitlines()
    assert base.index("1/1") == head.index("sample"), "a stage that a cell does not have is empty"


def test_status_without_a_ledger(em, sweep):
    (sweep / "ledger.jsonl").unlink()
    assert em("status", str(sweep)).returncode == 0


@pytest.mark.parametrize("command", ["status", "resume", "report"])
def test_a_folder_that_is_no_sweep_is_a_sentence(em, tmp_path, command):
    fails_with(em(command, str(tmp_path)), str(tmp_path), "give a sweep folder")
    fails_with(em(command, str(tmp_path / "gone")), "give a sweep folder")


@pytest.mark.parametrize("command", [["status"], ["resume"]])
def test_an_imported_sweep_has_no_store_and_says_what_works(em, tmp_path, command):
    (tmp_path / "summary.json").write_text("{}")
    fails_with(em(*command, str(tmp_path)), "holds no sweep.json: it was imported", "em report, em compare and")


def test_a_reader_that_has_enough_is_no_error():
    command = f"{sys.executable} -m em.cli assets list"
    done = subprocess.run(["bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_status_of_a_newer_store_is_a_sentence(em, sweep):
    (sweep.parents[1] / "store" / "store.json").write_text('{"format": 3}')
    fails_with(em("status", str(sweep)), "store format 3")


def test_status_reads_past_a_torn_ledger_line(em, sweep):
    with (sweep / "ledger.jsonl").open("a") as file:
        file.write('{"time": "2025-01-01T0')
    assert "Traceback" not in em("status", str(sweep)).stderr


def test_status_works_from_any_folder_and_makes_nothing(em, sweep, tmp_path):
    text = json.loads((sweep / "sweep.json").read_text()) | {"out": "out"}  # what `out=out` writes
    (sweep / "sweep.json").write_text(json.dumps(text))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert em("status", str(sweep), cwd=tmp_path).stdout == em("status", str(sweep), cwd=elsewhere).stdout
    assert not list(elsewhere.iterdir())


def test_every_state_of_an_asset_is_told(tmp_path, monkeypatch):
    """`missing`, `local`, `cached` and WRONG, through the function the command prints."""
    asset = assets.Asset("betley2025/x", "x", "http://127.0.0.1:1/x", 3, "ab" * 32, None, "MIT")
    monkeypatch.setattr(assets, "ASSETS", {asset.name: asset})
    monkeypatch.setenv("EM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EM_ASSETS", raising=False)
    assert [row.state for row in assets.list_assets()] == ["missing"]
    cached = tmp_path / "cache" / "assets" / "betley2025" / "x"
    cached.parent.mkdir(parents=True)
    cached.write_text("abc")
    (row,) = assets.verify()
    assert (row.state, row.path) == ("WRONG", cached)
    assert "expected" in row.problem


def test_every_commands_example_is_one_that_works():
    whole = cli.parser()
    (added,) = (a for a in whole._actions if isinstance(a, argparse._SubParsersAction))
    for name, sub in added.choices.items():
        if name != "run":  # its help is Hydra's
            shown = re.search(r"^example: (?:eval \"\$\()?em (.+?)(?:\)\".*| +#.*)?$", sub.format_help(), re.MULTILINE)
            assert shown, name
            assert whole.parse_args(shlex.split(shown[1])).command == name


def test_em_alone_is_a_guide_whose_commands_exist(em):
    done = em()
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("\n") <= 15
    assert set(re.findall(r"^  em (\w+)", done.stdout, re.MULTILINE)) <= set(cli.COMMANDS)


def test_the_version_is_the_packages(em):
    assert em("--version").stdout == f"em {metadata.version('emergent-misalignment')}\n"


def test_an_unknown_command_has_a_nearest_one(em):
    assert "there is no command rejudg; did you mean rejudge?" in em("rejudg", "x").stderr


def test_em_run_is_python_m_em_run(em):
    words = ["--cfg", "job", "dataset=secure", "seed=7"]
    other = subprocess.run([sys.executable, "-m", "em.run", *words], capture_output=True, text=True, timeout=60)
    assert em("run", *words).stdout == other.stdout != ""
    assert em("run", "-m", *words).stderr == (
        "em: --cfg shows one run: leave -m out, or list the runs of a sweep with em plan\n"
    )
