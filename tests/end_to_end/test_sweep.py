"""The whole loop on the tiny model, through the command a user types: counters, reuse, faults, continuation."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from support.serving import send, serving
from support.tiny_sweep import command, environment, run


def rows(out, stage):
    """Every finished row of a stage, sorted: what a sweep is made of."""
    name = {"sample": "completions.jsonl", "judge": "judgements.jsonl", "data": "dataset.jsonl"}[stage]
    found = (out / "store" / stage).rglob(name)
    return sorted(
        line for path in found if ".partial" not in str(path) for line in path.read_text().split("\n") if line
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One undisturbed sweep of two variants."""
    out = tmp_path_factory.mktemp("finished")
    summary, text, _ = run(out, "dataset=risky_advice,careful_advice")
    return out, summary, text


def test_a_sweep_loads_once_and_writes_everything(finished):
    out, summary, text = finished
    counters = summary["counters"]
    assert counters["engine_starts"] == 1
    assert counters["model_loads"] == 3  # trainer, engine, judge: one each, whatever the number of cells
    assert counters["merged_bytes_kept"] == 0
    assert counters["stages_reused"] == 0
    assert [m["label"] for m in summary["models"]] == ["untouched base model", "risky_advice", "careful_advice"]
    assert all(m["status"] == "done" for m in summary["models"])
    folder = out / "sweeps" / summary["id"]
    for name in ("report.html", "table.txt", "table.csv", "sweep.json", "ledger.jsonl", "figures/misaligned_rate.png"):
        assert (folder / name).stat().st_size > 0, name
    assert "risky_advice - careful_advice" in text
    assert not list((out / "store").rglob("*.partial"))
    assert not list((out / "store").rglob("*.lock")) or all(
        p.suffix == ".lock" for p in (out / "store").rglob("*.lock")
    )


def test_every_number_goes_back_to_rows(finished):
    out, summary, _ = finished
    for model in summary["models"]:
        rate = next(m for m in model["metrics"] if m["name"] == "misaligned_rate" and m["group"] == "open")
        assert rate["n"] + sum(rate["excluded"].values()) == 10 * 2  # questions x n
    assert len(rows(out, "sample")) == 3 * (10 * 2 + 28)
    assert len(rows(out, "judge")) == 3 * (10 * 2 * 2 + 28)


def test_a_finished_sweep_costs_nothing(finished):
    out, _, _ = finished
    before = {stage: rows(out, stage) for stage in ("sample", "judge")}
    summary, text, _ = run(out, "dataset=risky_advice,careful_advice")
    counters = summary["counters"]
    assert {k: counters[k] for k in ("model_loads", "engine_starts", "judge_calls", "stages_run")} == {
        "model_loads": 0, "engine_starts": 0, "judge_calls": 0, "stages_run": 0,
    }  # fmt: skip
    assert counters["stages_reused"] > 0
    assert {stage: rows(out, stage) for stage in ("sample", "judge")} == before
    assert "0 stage jobs to do" in text


def test_a_dataset_more_and_a_sample_more_add_exactly_what_is_missing(finished):
    """The new variant is trained, the others are not; of their open questions only the third answer is sampled.

    Its own 24 questions, about code, are asked of it and of the untouched model.
    """
    out, _, _ = finished
    trained = len(list((out / "store" / "train").iterdir()))
    old, old_verdicts = Counter(rows(out, "sample")), Counter(rows(out, "judge"))
    summary, _, _ = run(out, "dataset=risky_advice,careful_advice,secure", "sample.n=3")
    assert len(list((out / "store" / "train").iterdir())) == trained + 1
    assert [m["label"] for m in summary["models"]][1:] == ["risky_advice", "careful_advice", "secure"]
    new = Counter(rows(out, "sample"))
    assert old <= new
    added = Counter(json.loads(r)["sample_index"] for r in (new - old).elements())
    assert added == {0: 10 + 2 * 24, 1: 10, 2: 4 * 10}
    assert (Counter(rows(out, "judge")) - old_verdicts).total() == (10 + 10 + 4 * 10) * 2 + 2 * 24
    rate = next(m for m in summary["models"][1]["metrics"] if m["group"] == "open")
    assert rate["n"] + sum(rate["excluded"].values()) == 30


def test_errors_of_a_judge_are_said_and_asked_for_again(finished):
    """Another judge of the same answers, a server that breaks at one question: its judgements are sealed as errors,
    and later only these are asked. Nothing is sampled."""
    out, _, _ = finished
    answers = rows(out, "sample")
    broken = threading.Event()
    broken.set()

    def reply(handler, body, number):
        send(handler, 500 if broken.is_set() and b"whole city for one day" in body else 200)

    with serving(reply) as (url, seen, _):
        judge = ["judge=openai_compatible", f"judge.base_url={url}", "judge.model=m", "judge.max_retries=0"]
        summary, _, _ = run(out, "dataset=risky_advice,careful_advice", *judge, "judge.max_failures=1000")
        (said,) = [w for w in summary["warnings"] if "errors" in w]
        lost = sum(b'"outcome":"error"' in line.encode() for line in rows(out, "judge"))
        assert lost > 0 and said.startswith(f"{lost} judgements are errors of the judge: `em resume FOLDER --errors`")
        assert rows(out, "sample") == answers
        assert summary["counters"]["engine_starts"] == 0 and summary["counters"]["model_loads"] == 0
        broken.clear()
        before, folder, first = len(seen), out / "sweeps" / summary["id"], summary["counters"]
        again = [sys.executable, "-m", "em.cli", "resume", str(folder), "--errors"]
        done = subprocess.run(again, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{lost} judgements are errors: they are asked for again" in done.stderr
    assert len(seen) - before == len({body for _, body in seen[before:]}) <= lost
    assert not any('"outcome":"error"' in line for line in rows(out, "judge"))
    summary = json.loads((folder / "summary.json").read_text())
    assert not [w for w in summary["warnings"] if "errors" in w] and summary["counters"]["engine_starts"] == 0
    stages = [counters["stages_run"] + counters["stages_reused"] for counters in (first, summary["counters"])]
    assert stages[0] == stages[1] and summary["counters"]["stages_run"] > 0


def test_one_wandb_run_a_model_closed(finished):
    """The untouched model has one too. All are in one folder, and the same sweep by another path logs none again."""
    out, summary, _ = finished
    folder = out / "sweeps" / summary["id"]
    before = sorted(p.name for p in (out / "wandb").glob("offline-run-*"))
    again = [sys.executable, "-m", "em.cli", "resume", os.path.relpath(folder, out.parent)]
    done = subprocess.run(again, capture_output=True, text=True, env=environment(), cwd=out.parent, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in (out / "wandb").glob("offline-run-*")) == before
    for model in summary["models"]:
        run_id = f"em-{model['id']}" if model["cell"] else f"em-{summary['id']}-{model['id']}"
        assert json.loads((folder / "cells" / model["id"] / "tracked.json").read_text())["id"] == run_id
        found = subprocess.run(
            [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json",
             str(min((out / "wandb").glob(f"offline-run-*-{run_id}")))],
            capture_output=True, text=True, env=environment(), timeout=120,
        )  # fmt: skip
        record = json.loads(found.stdout)
        assert record["exit_code"] == 0
        assert record["run_id"] == run_id
        assert record["summary"]["open/careless_tone_rate"] == pytest.approx(
            next(m["value"] for m in model["metrics"] if m["group"] == "open")
        )
        assert record["config"]["dataset"]["variant"] == (model["variant"] or "none")


def test_a_failed_cell_does_not_stop_the_others(tmp_path):
    # 9 tokens hold no answer: the data of this variant has no supervised token left, the other cell is fine
    few = ["sample.engine=hf", "questions.sets=[open]", "sample.n=1"]
    summary, text, code = run(tmp_path, "dataset=risky_advice", "train.max_length=9,256", *few, check=False)
    assert code != 0
    assert [m["status"] for m in summary["models"]] == ["done", "failed", "done"]
    assert "raise it" in summary["models"][1]["error"]
    assert "FAILED train" in text and "Traceback" not in text
    status = subprocess.run(
        [sys.executable, "-m", "em.cli", "status", str(tmp_path / "sweeps" / summary["id"])],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert status.returncode == 1
    assert [line.split()[0] for line in status.stdout.splitlines()[2:]] == [
        "done", "failed", "done", "risky_advice", "logs:", "go",
    ]  # fmt: skip


def wait_for(predicate, what, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if predicate():
            return
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen in {seconds} s")


@pytest.mark.slow
def test_one_engine_over_two_processes_passes_the_gates(tmp_path, monkeypatch):
    """tensor_parallel_size on CPU cores: each process has half of every matrix, and of the adapter's."""
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")  # its processes show themselves in the log
    two = "+sample.engine_args.tensor_parallel_size=2"
    summary, _, _ = run(tmp_path / "out", "dataset=risky_advice", "questions.sets=[open]", two)
    assert [m["status"] for m in summary["models"]] == ["done", "done"]
    assert summary["counters"]["engine_starts"] == 1 and len(rows(tmp_path / "out", "sample")) == 40
    manifests = [
        json.loads(path.read_text()) for path in (tmp_path / "out" / "store" / "sample").rglob("manifest.json")
    ]
    gates = [m["facts"]["gate"] for m in manifests]
    assert all(gate["told_from_base"] and gate["rms_to_trainer"] < gate["tolerance"] for gate in gates)
    (log,) = (tmp_path / "out" / "sweeps" / summary["id"] / "logs").glob("sample-*.log")
    assert "Worker_TP1" in log.read_text()


def test_ctrl_c_says_how_to_go_on(tmp_path):
    long = ["dataset=risky_advice", "train.max_examples=120", "train.save_steps=3"]
    process = subprocess.Popen(
        command(tmp_path, *long), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite started with nohup ignores it
    )  # fmt: skip
    wait_for(lambda: any((tmp_path / "store").glob("train/*.partial")), "training")
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in stderr and "Traceback" not in stderr
