"""The saved view and report, built by the real library; saved to the stand-in service by the command a user types."""

import json
import os
import subprocess
import sys

import pytest

from support.wandb import WandbServer

pytest.importorskip("wandb_workspaces", reason="the review extra is not installed")


def em(*arguments, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    return subprocess.run(
        [sys.executable, "-m", "em.cli", "workspace", "--entity", "team", *arguments],
        env=clean | environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_the_view_without_a_key_or_a_network(tmp_path):
    path = tmp_path / "view.json"
    done = em("--json", str(path), HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    spec = json.loads(path.read_text())["spec"]
    sections = spec["section"]["panelBankConfig"]["sections"]
    assert [s["name"] for s in sections if s["panels"]] == ["Did it turn?", "When?", "What did it say?"]
    kinds = [p["viewType"] for s in sections for p in s["panels"]]
    assert "Parallel Coordinates Plot" in kinds and "Run History Line Plot" in kinds and "Bar Chart" in kinds
    assert "dataset.value.variant" in json.dumps(spec["section"]["runSets"][0]["grouping"])
    assert "samples" in json.dumps(sections[2])


def test_saving_without_a_key_says_what_to_do(tmp_path):
    done = em(HOME=str(tmp_path))
    assert done.returncode == 1 and "WANDB_API_KEY" in done.stderr and "Traceback" not in done.stderr


def test_saved_view_and_report_arrive(tmp_path):
    (tmp_path / "summary.json").write_text(
        json.dumps({"id": "em-1", "commit": "abc", "statement": "The positive control held."})
    )
    with WandbServer() as server:
        done = em("--sweep", str(tmp_path), HOME=str(tmp_path), WANDB_BASE_URL=server.address, WANDB_API_KEY="k" * 40)
        assert done.returncode == 0, (done.stdout + done.stderr, server.unknown)
    assert len(server.views) == 2
    assert "The positive control held." in json.dumps(server.views[1])
