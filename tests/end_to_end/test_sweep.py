"""The whole loop on the tiny model, through the command a user types: counters, reuse, faults, continuation."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter

import pytest

from support.serving import send, serving
from support.tiny_sweep import TWO_VARIANTS, command, environment, run


def rows(out, stage):
    """Every finished row of a stage, sorted: what a sweep is made of."""
    name = {"sample": "completions.jsonl", "judge": "judgements.jsonl", "data": "dataset.jsonl"}[stage]
    found = (out / "store" / stage).rglob(name)
    return sorted(
        line for path in found if ".partial" not in str(path) for line in path.read_text().split("\n") if line
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, copy_of_two_variants):
    """A sweep of two variants, asked by vLLM and judged by the proxy. Both were trained by the sweep that is copied."""
    out = tmp_path_factory.mktemp("finished") / "out"
    trained = json.loads((copy_of_two_variants(out) / "summary.json").read_text())["counters"]
    assert (trained["model_loads"], trained["engine_starts"]) == (2, 1)  # trainer and engine, for three models
    for folder in (out / "sweeps", *(out / "store" / stage for stage in ("sample", "judge"))):
        shutil.rmtree(folder)
    summary, text, _ = run(out, "dataset=risky_advice,careful_advice")
    return out, summary, text


def test_a_sweep_loads_once_and_writes_everything(finished):
    out, summary, text = finished
    counters = summary["counters"]
    assert counters["engine_starts"] == 1
    assert counters["model_loads"] == 2  # engine and judge: one each, whatever the number of cells
    assert counters["merged_bytes_kept"] == 0
    assert counters["stages_reused"] == 4  # data and training of each variant
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


def test_one_wandb_run_a_model_closed(finished, here):
    """The untouched model has one too. All are in one folder, and the same sweep by another path logs none again."""
    out, summary, _ = finished
    folder = out / "sweeps" / summary["id"]
    before = sorted(p.name for p in (out / "wandb").glob("offline-run-*"))
    done = here("resume", os.path.relpath(folder, out.parent), cwd=out.parent)
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


@pytest.fixture(scope="module")
def widened(tmp_path_factory, copy_of_two_variants):
    """The finished sweep of two variants with a third one and a third sample, each also with a training that fails.

    9 tokens hold no answer: there the data has no supervised token left. Returns out, the rows of its samples and
    judgements and the number of trained adapters before, and of the second run the summary, the text, the exit code.
    """
    out = tmp_path_factory.mktemp("widened") / "out"
    copy_of_two_variants(out)
    old = Counter(rows(out, "sample")), Counter(rows(out, "judge")), len(list((out / "store" / "train").iterdir()))
    third = ["dataset=risky_advice,careful_advice,secure", "sample.n=3", "train.max_length=256,9"]
    return out, old, run(out, *TWO_VARIANTS, *third, check=False)


def test_a_dataset_more_and_a_sample_more_add_exactly_what_is_missing(widened):
    """The new variant is trained, the others are not; of their open questions only the third answer is sampled."""
    out, (old, old_verdicts, trained), (summary, *_) = widened
    assert len(list((out / "store" / "train").glob("*/manifest.json"))) == trained + 1
    done = [m for m in summary["models"] if m["status"] == "done"]
    assert [m["variant"] for m in done] == [None, "risky_advice", "careful_advice", "secure"]
    new = Counter(rows(out, "sample"))
    assert old <= new
    added = Counter(json.loads(r)["sample_index"] for r in (new - old).elements())
    assert added == {0: 10, 1: 10, 2: 4 * 10}
    assert (Counter(rows(out, "judge")) - old_verdicts).total() == (10 + 10 + 4 * 10) * 2
    rate = next(m for m in done[1]["metrics"] if m["group"] == "open")
    assert rate["n"] + sum(rate["excluded"].values()) == 30


def test_a_failed_cell_does_not_stop_the_others(widened):
    out, _, (summary, text, code) = widened
    assert code != 0
    failed = [m for m in summary["models"] if m["status"] == "failed"]
    assert [m["variant"] for m in failed] == ["risky_advice", "careful_advice", "secure"]
    assert all("raise it" in m["error"] for m in failed)
    assert "FAILED train" in text and "Traceback" not in text
    status = subprocess.run(
        [sys.executable, "-m", "em.cli", "status", str(out / "sweeps" / summary["id"])],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert status.returncode == 1
    said = [line.split()[0] for line in status.stdout.splitlines()[2:]]
    assert said[:7].count("done") == 4 and said[:7].count("failed") == 3, status.stdout
    assert said[-2:] == ["logs:", "go"], status.stdout


def test_ctrl_c_says_how_to_go_on_and_errors_of_a_judge_are_asked_for_again(two_variants, here):
    """Another judge of the same answers, a server that breaks at one question: its judgements are sealed as errors,
    and later only these are asked. Nothing is sampled. Before, Ctrl-C comes at its first request."""
    out = two_variants.parents[1]
    answers = rows(out, "sample")
    broken, held, asked = threading.Event(), threading.Event(), threading.Event()
    broken.set()

    def reply(handler, body, number):
        asked.set()
        held.wait(60)
        send(handler, 500 if broken.is_set() and b"whole city for one day" in body else 200)

    with serving(reply) as (url, seen, _):
        judge = ["judge=openai_compatible", f"judge.base_url={url}", "judge.model=m", "judge.max_retries=0"]
        overrides = [*TWO_VARIANTS[:-2], *judge, "judge.max_failures=1000"]
        process = subprocess.Popen(
            command(out, *overrides), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite started with nohup ignores it
        )  # fmt: skip
        assert asked.wait(120)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "the same command continues" in stderr and "Traceback" not in stderr
        held.set()

        summary, _, _ = run(out, *overrides)
        (said,) = [w for w in summary["warnings"] if "errors" in w]
        lost = sum(b'"outcome":"error"' in line.encode() for line in rows(out, "judge"))
        assert lost > 0 and said.startswith(f"{lost} judgements are errors of the judge: `em resume FOLDER --errors`")
        assert rows(out, "sample") == answers
        assert summary["counters"]["engine_starts"] == 0 and summary["counters"]["model_loads"] == 0
        broken.clear()
        before, folder, first = len(seen), out / "sweeps" / summary["id"], summary["counters"]
        done = here("resume", folder, "--errors")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{lost} judgements are errors: they are asked for again" in done.stderr
    assert len(seen) - before == len({body for _, body in seen[before:]}) <= lost
    assert not any('"outcome":"error"' in line for line in rows(out, "judge"))
    summary = json.loads((folder / "summary.json").read_text())
    assert not [w for w in summary["warnings"] if "errors" in w] and summary["counters"]["engine_starts"] == 0
    stages = [counters["stages_run"] + counters["stages_reused"] for counters in (first, summary["counters"])]
    assert stages[0] == stages[1] and summary["counters"]["stages_run"] > 0


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
