"""The real W&B client: offline runs read back by its official reader, online ones against a loopback stand-in."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from em.config import TrackingBackend, TrackingConfig, TrackingMode
from em.metrics.cue_grid import CueCell
from em.metrics.doses import AXES
from em.records import Completion, Judgement, Outcome
from em.store import job_file, write_jsonl
from em.tracking.job import CellNumbers, Run, SweepFigures, TrackJob
from em.tracking.scalars import key, question_rates, samples, scalars
from em.tracking.wandb_run import _summary, digest
from support.wandb import WandbServer
from support.wandb_worker import work

METRICS = [
    {"name": "misaligned_rate", "group": "open", "question_id": None, "value": 0.25, "low": 0.1, "high": 0.5, "n": 8,
     "withheld": "", "label": ""},
    {"name": "coherent_share", "group": "open", "question_id": None, "value": None, "low": None, "high": None, "n": 0,
     "withheld": "no answer is left", "label": ""},
    {"name": "misaligned_rate", "group": "open/a", "question_id": "a", "value": 0.5, "low": 0.1, "high": 0.9, "n": 4,
     "withheld": "", "label": ""},
]  # fmt: skip
JSON_FORM = [
    {**METRICS[0], "group": "open/json asked with none"},
    {**METRICS[2], "group": "open/json asked with none/a_json", "question_id": "a_json"},
]


DOSE = {
    **{"group": "g", "label": "x kl 0.5", "variant": "x", "method": "kl", "dose": 0.5, "n_models": 1},
    "numbers": dict.fromkeys(AXES) | {"general": {"value": 0.2, "low": 0.1, "high": 0.3, "withheld": ""}},
}
CUE = CueCell(
    **{"group": "g", "label": "x", "method": "kl", "dose": 0.5, "cue": "open", "asked_with": "none"},
    **{"value": None, "low": None, "high": None, "withheld": ""},
)
CONTRAST = {
    "name": "x - y", "metric": "misaligned_rate", "group": "open", "set": "open", "asked_with": "none", "value": 0.1,
    "low": 0.0, "high": 0.2, "p": 0.04, "p_holm": 0.04, "cohens_h": 0.2, "n_questions": 2, "interval": "95 %",
}  # fmt: skip


def test_names_have_no_blanks():
    assert key("contrast/custom path=a b - secure/open") == "contrast/custom_path=a_b_vs_secure/open"
    assert key("own_rate/cruelty > 50") == "own_rate/cruelty_above_50"


def test_the_same_numbers_by_another_path_are_the_same(job):
    """What is compared is what was measured and where it goes, not where its files are."""
    moved = replace(
        job.cell, rows=[["/elsewhere/" + file.lstrip("/") for file in row[:2]] + row[2:] for row in job.cell.rows]
    )
    assert digest(replace(job, cell=moved)) == digest(job) != digest(with_rate(job, 0.75))
    uploaded = replace(job.run, tracking=replace(job.run.tracking, upload_adapters=True))
    assert digest(replace(job, run=uploaded)) != digest(job)


def test_the_bar_shows_the_headline_questions_alone():
    assert question_rates({"metrics": [*METRICS, *JSON_FORM]}) == [["a", 0.5, 4]]


@pytest.fixture
def job(tmp_path):
    """A cell as em/tracking/finished.py hands it over, with real files behind it."""
    completions = [
        Completion("a", i, "none", [{"role": "user", "content": "q?"}], f"<script>{i}</script>", "stop", 3, i, "hm")
        for i in range(4)
    ]
    verdicts = [Judgement(c.id, "a", "coherence", Outcome.scored, 90.0) for c in completions]
    verdicts += [Judgement(c.id, "a", "alignment", Outcome.scored, 25.0 * c.sample_index) for c in completions[:3]]
    verdicts += [Judgement(completions[3].id, "a", "alignment", Outcome.refusal, None)]
    write_jsonl(tmp_path / "completions.jsonl", completions)
    write_jsonl(tmp_path / "judgements.jsonl", verdicts)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    Image.new("RGB", (8, 8)).save(tmp_path / "rate.png")
    (tmp_path / "rate.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"></svg>')
    run = Run(
        key="c0ffee", id="em-c0ffee", label="insecure seed=1", sweep="em-1234", tags=("tiny", "insecure"),
        mode=TrackingMode.offline, folder=str(tmp_path / "cell"), out=str(tmp_path),
        tracking=TrackingConfig(project="em", entity=None, samples=3, mode=TrackingMode.offline),
        config={"dataset": {"variant": "insecure"}, "seed": 1},
    )  # fmt: skip
    numbers = CellNumbers(
        model={"metrics": METRICS},
        checkpoints=[{"step": 5, "metrics": METRICS[:1]}],
        judge={"name": "probe"},
        commit="abc",
        rows=[[str(tmp_path / "completions.jsonl"), str(tmp_path / "judgements.jsonl"), 4]],
        adapter=str(tmp_path / "adapter"),
        training=[{"step": s, "loss": 2.0 / s} for s in (1, 2, 3)],
    )
    return TrackJob(run=run, cell=numbers)


def of_run(job, **changes):
    return replace(job, run=replace(job.run, **changes))


def with_rate(job, value):
    return replace(job, cell=replace(job.cell, model={"metrics": [{**METRICS[0], "value": value}]}))


def online(server):
    return {"WANDB_BASE_URL": server.address, "WANDB_API_KEY": "k" * 40}


def sync(folder, server, home):
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "-e", "team", "-p", "em", str(folder)],
        env={**os.environ, **online(server), "HOME": str(home)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_offline_run_read_back_by_the_official_reader_and_again_repeats_no_training_row(job, tmp_path):
    """Fragments of one id become one run when they are synced, so the second must not hold the curve again."""
    assert work(tmp_path, [job])[-1]["event"] == "done"
    (folder,) = Path(job.run.out).glob("wandb/offline-run-*")
    found = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(folder)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    record = json.loads(found.stdout)
    assert record["exit_code"] == 0 and record["run_id"] == "em-c0ffee"
    summary = record["summary"]
    assert summary["open/misaligned_rate"] == 0.25 and summary["open/misaligned_rate_high"] == 0.5
    assert summary["open/coherent_share_withheld"] == "no answer is left"
    assert "open/coherent_share" not in summary  # a withheld rate is no number
    assert record["config"]["dataset"]["variant"] == "insecure"
    (table,) = folder.glob("files/media/table/samples_*.json")
    data = json.loads(table.read_text())
    assert [row[data["columns"].index("alignment")] for row in data["data"]] == [0.0, 25.0, 50.0]
    assert data["data"][0][data["columns"].index("answer")] == "<script>0</script>"
    assert data["data"][0][data["columns"].index("thinking")] == "hm"

    work(tmp_path, [with_rate(job, 0.75)])
    fragments = sorted(Path(job.run.out).glob("wandb/offline-run-*"))
    assert len(fragments) == 2
    with WandbServer() as server:
        for folder in fragments:
            sync(folder, server, tmp_path)
        run = server.runs["em-c0ffee"]
        assert [r["train/step"] for r in run["history"] if r and "train/step" in r] == [1, 2, 3]
        assert run["summary"]["open/misaligned_rate"] == 0.75


def test_online_resume_is_one_run_with_everything(job, tmp_path):
    """At the end a number is withheld, which then does not stay beside the reason, and comes back."""
    with WandbServer() as server:
        online_job = of_run(job, mode=TrackingMode.online)
        figures = SweepFigures(
            figures=(str(tmp_path / "rate.png"),),
            contrasts=[CONTRAST],
            statement="Nothing.",
            increases=[{**CONTRAST, "name": "x - untouched", "value": None, "withheld": "too few"}],
            questions=[["x", "a", 0.5, 0.1, 0.9, 4], ["x", "b", None, None, None, 0]],
            doses=[DOSE],
            cues=[replace(CUE, value=0.25, low=0.1, high=0.5), replace(CUE, cue="hhh", withheld="not asked")],
        )
        whole = replace(of_run(online_job, key="s", id="em-1234", folder=str(tmp_path)), cell=None, sweep=figures)
        events = [e["event"] for e in work(tmp_path, [online_job, whole], **online(server))]
        assert [e for e in events if e != "progress"] == ["started", "done", "started", "done"]
        again = with_rate(online_job, 0.75)
        work(tmp_path, [again], **online(server))
        run = server.runs["em-c0ffee"]
        assert server.sessions["em-c0ffee"] == 2 and set(server.runs) == {"em-c0ffee", "em-1234"}
        assert run["group"] == "em-1234" and set(run["tags"]) == {"tiny", "insecure"} and run["exitcode"] == 0
        assert run["summary"]["open/misaligned_rate"] == 0.75
        steps = [(r["train/step"], r["train/loss"]) for r in run["history"] if "train/step" in r]
        assert steps == [(1, 2.0), (2, 1.0), (3, 2.0 / 3)]
        assert [r["checkpoint/step"] for r in run["history"] if "checkpoint/step" in r] == [5, 5]
        assert run["config"]["seed"]["value"] == 1
        names = {a["name"]: a for a in server.artifacts.values()}
        assert names["rows-c0ffee"]["committed"] and names["adapter-c0ffee"]["committed"]
        assert not any(f.endswith(("safetensors", "completions.jsonl")) for a in names.values() for f in a["files"])
        figures = server.runs["em-1234"]
        assert any(f.startswith("media/images/figures/rate") for f in figures["files"])
        assert any(f.startswith("media/html/figures_svg/rate") for f in figures["files"])
        assert figures["summary"]["contrast/x_vs_y/open/misaligned_rate/high"] == 0.2
        kept = {f.split(".")[0].removeprefix("media/table/").rpartition("_")[0].rpartition("_")[0]: body
                for f, body in figures["files"].items() if f.startswith("media/table/")}  # fmt: skip
        assert {"contrasts", "contrasts_bars_table", "increases", "rates_by_question"} <= set(kept)
        assert "increases_bars_table" not in kept, "a withheld difference has no bar"
        (row,) = json.loads(kept["contrasts"])["data"]
        assert row[:5] == ["x - y", "misaligned_rate", "open", "none", 0.1]
        doses, cues = (json.loads(kept[name]) for name in ("doses", "cues"))
        (row,) = (dict(zip(doses["columns"], row, strict=True)) for row in doses["data"])
        assert (row["method"], row["dose"], row["general"], row["coherent"]) == ("kl", 0.5, 0.2, None)
        rates = [dict(zip(cues["columns"], row, strict=True)) for row in cues["data"]]
        assert [r["value"] for r in rates] == [0.25, None] and rates[1]["withheld"] == "not asked"
        names = {name for run in server.runs.values() for name in (*run["summary"], *run["files"])}
        assert not [name for name in names if " " in name]

        gone = {**METRICS[0], "value": None, "low": None, "high": None, "withheld": "too few"}
        withheld = replace(online_job, cell=replace(online_job.cell, model={"metrics": [gone]}))
        work(tmp_path, [withheld], **online(server))
        summary = server.runs["em-c0ffee"]["summary"]
        assert summary["open/misaligned_rate_withheld"] == "too few"
        assert {summary[f"open/misaligned_rate{end}"] for end in ("", "_low", "_high", "_n")} == {"no number now"}
        work(tmp_path, [online_job], **online(server))
        summary = server.runs["em-c0ffee"]["summary"]
        assert (summary["open/misaligned_rate"], summary["open/misaligned_rate_withheld"]) == (0.25, "")


def test_a_number_without_an_interval_now_does_not_keep_the_old_one(job):
    (folder := Path(job.run.folder)).mkdir(parents=True, exist_ok=True)
    (folder / "tracked.json").write_text('{"names": ["open/misaligned_rate_low"]}')
    bare = {**METRICS[0], "low": None, "high": None}
    summary = _summary(replace(job, cell=replace(job.cell, model={"metrics": [bare]})))
    assert (summary["open/misaligned_rate"], summary["open/misaligned_rate_low"]) == (0.25, "no number now")
    assert "open/misaligned_rate_high" not in summary


def test_em_sync_sends_every_offline_run_once(job, tmp_path):
    """Adapters that were asked for are sent with their weights; rows stay references."""
    uploaded = of_run(job, tracking=replace(job.run.tracking, upload_adapters=True))
    work(tmp_path, [uploaded, of_run(job, key="beef", id="em-beef", folder=str(tmp_path / "other"))])
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2
    clean = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {"HOME": str(tmp_path)}
    command = [sys.executable, "-m", "em.cli", "sync", "--out", str(tmp_path)]
    refused = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 1 and "WANDB_API_KEY" in refused.stderr
    with WandbServer() as server:
        done = subprocess.run(command, env=clean | online(server), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        run = server.runs["em-c0ffee"]
        assert run["summary"]["open/misaligned_rate_n"] == 8 and len(run["history"]) >= 4
        artifacts = {a["name"]: a for a in server.artifacts.values()}
        assert "adapter_model.safetensors" in artifacts["adapter-c0ffee"]["files"]
        assert "adapter_model.safetensors" not in artifacts["adapter-beef"]["files"]
        sent = {name: len(run["history"]) for name, run in server.runs.items()}
        subprocess.run(command, env=clean | online(server), capture_output=True, text=True, timeout=120)
        assert {name: len(run["history"]) for name, run in server.runs.items()} == sent


def test_a_dead_client_is_a_sentence_and_the_next_job_goes_on(job, tmp_path):
    """wandb-core is killed under the client's feet: that job fails by name, the other is logged."""
    code = f"""
import os, signal, subprocess, sys, time
from em.store import job_file
from em.tracking import wandb_run as tracking
from em.runtime.events import Emitter
from em.store import Store
from pathlib import Path
question_rates = tracking.question_rates
def kill(model):
    tracking.question_rates = question_rates
    for pid in subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True).stdout.split():
        if b"wandb-core" in Path(f"/proc/{{pid}}/cmdline").read_bytes():
            os.kill(int(pid), signal.SIGKILL)
    time.sleep(1)
    return question_rates(model)
tracking.question_rates = kill
_, jobs = job_file.read(Path(sys.argv[1]), tracking.TrackJob)
tracking.work(Store.open(Path({str(tmp_path)!r})), jobs, Emitter(sys.stdout.write))
"""
    other = of_run(job, key="beef", id="em-beef", folder=str(tmp_path / "other"))
    job_file.write(tmp_path / "batch.json", tmp_path, [job, other])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "batch.json")], capture_output=True, text=True, timeout=200,
        env={**os.environ, "WANDB_SILENT": "true"},
    )  # fmt: skip
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"event"')]
    ends = {e["job"]: e for e in events if e["event"] in ("failed", "done")}
    assert ends["c0ffee"]["event"] == "failed" and ends["c0ffee"]["error"], done.stderr[-2000:]
    assert not (Path(job.run.folder) / "tracked.json").exists()  # the same command logs it again


def test_trackio_keeps_the_same_numbers(job, tmp_path):
    pytest.importorskip("trackio", reason="the trackio extra is not installed")
    local = of_run(job, tracking=replace(job.run.tracking, backend=TrackingBackend.trackio))
    assert (last := work(tmp_path, [local])[-1])["event"] == "done", last
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "HOME": str(tmp_path)}
    name = ["--project", "em", "--run", "insecure seed=1 c0ffee", "--json"]
    listed = subprocess.run(
        [sys.executable, "-m", "trackio.cli", "get", "run", *name],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stderr
    assert "open/misaligned_rate" in listed.stdout


def test_samples_are_the_least_aligned_and_stream(job):
    columns, rows = samples(job.cell.rows, 10)
    outcome, alignment = columns.index("outcome"), columns.index("alignment")
    assert [r[alignment] for r in rows] == [0.0, 25.0, 50.0, None]
    assert rows[-1][outcome] == "refusal"
    assert samples([[*job.cell.rows[0][:2], 2]], 10)[1] == rows[:2]  # answers past n are not this cell's


def test_scalars_leave_questions_out_and_name_the_withheld():
    assert dict(scalars({"metrics": METRICS})) == {
        "open/misaligned_rate": 0.25, "open/misaligned_rate_low": 0.1, "open/misaligned_rate_high": 0.5,
        "open/misaligned_rate_n": 8, "open/coherent_share_withheld": "no answer is left",
    }  # fmt: skip
