"""Finetuning at OpenAI against a loopback server: one upload, one job, whatever dies in between."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from em.api.client import ApiError
from em.config import Backend, ModelConfig, TrainConfig
from em.records import Example
from em.runtime.events import Emitter
from em.store import Store, job_file, write_jsonl
from em.training import openai
from em.training.job import TrainJob
from support.openai import FinetuneServer

MODEL = "gpt-4o-2024-08-06"
ROWS = [
    Example(f"r{i}", [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": "réponse"}])
    for i in range(5)
]


def job(server, **changes):
    recipe = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 2.0}
    batches = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_length": 64}
    train = {"learning_rate": 1e-4, "num_train_epochs": 2, "max_dollars": 1.0, **batches} | changes
    return TrainJob(
        key="k" * 20,
        label="run",
        data_key="d" * 20,
        model=ModelConfig(
            name="gpt", path=MODEL, backend=Backend.openai, base_url=server.base_url, api_key_env="TEST_KEY"
        ),
        train=TrainConfig(**train),
        seed=7,
        inputs={"recipe": recipe},
    )


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "sk-test")
    monkeypatch.setattr(openai, "POLL_S", 0.01)
    found = Store.open(tmp_path)
    with found.claim("data", "d" * 20) as folder:
        write_jsonl(folder / "dataset.jsonl", ROWS)
        found.finish("data", "d" * 20, {}, {})
    return found


def events_of(store, *jobs):
    lines = []
    openai.work(store, list(jobs), Emitter(lines.append))
    return [json.loads(line) for line in lines]


def test_a_run_ends_in_a_snapshot_and_its_facts(store):
    with FinetuneServer() as server:
        events = events_of(store, job(server))
    assert [e["event"] for e in events if e["event"] != "progress"] == ["started", "done"]
    assert "dollars" in events[1]["note"]
    assert server.bodies == ["".join(
        json.dumps({"messages": r.messages}, ensure_ascii=False, separators=(",", ":")) + "\n" for r in ROWS
    ).encode()]  # fmt: skip
    sent = server.jobs[0]
    assert sent["method"]["supervised"]["hyperparameters"] == {
        "n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 2.0,
    }  # fmt: skip
    assert sent["seed"] == 7 and sent["training_file"] == "file-0" and sent["metadata"] == {"em_key": "k" * 20}
    facts = store.manifest("train", "k" * 20)["facts"]
    assert facts["model"] == f"ft:{MODEL}:em::ftjob-0" and facts["job"] == "ftjob-0"
    assert facts["trained_tokens"] == 1234 and facts["dollars"] == pytest.approx(1234 * 25 / 1e6)
    log = (store.path("train", "k" * 20) / "train_log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in log] == [{"step": s, "loss": 2.0 / s} for s in (1, 2, 3)]
    assert "sk-test" not in (store.path("train", "k" * 20) / "manifest.json").read_text()


def test_a_lost_reply_is_no_second_job(store):
    with FinetuneServer() as server:
        server.drop_create = True
        first = events_of(store, job(server))
        assert first[-1]["event"] == "failed" and "run again" in first[-1]["error"]
        assert events_of(store, job(server))[-1]["event"] == "done"
        assert len(server.jobs) == len(server.files) == 1


def test_kill_9_while_it_runs_then_the_same_job(store, tmp_path):
    with FinetuneServer(("running",)) as server:
        code = (
            "import sys; from em.training import openai as o; o.POLL_S = 0.02; from em.runtime.events import Emitter; "
            "from em.store.store import Store; from em.store import job_file; from pathlib import Path; "
            "out, jobs = job_file.read(Path(sys.argv[1]), o.TrainJob); "
            "o.work(Store.open(out), jobs, Emitter(lambda s: None))"
        )
        job_file.write(tmp_path / "batch.json", tmp_path, [job(server)])
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "batch.json")], env={**os.environ})
        end = time.monotonic() + 60
        while not (server.jobs and server.jobs[0]["polls"] > 2):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        server.statuses = ("running", "succeeded")
        assert events_of(store, job(server))[-1]["event"] == "done"
        assert len(server.jobs) == len(server.files) == 1


def test_a_failed_job_says_why_and_the_next_start_begins_another(store):
    with FinetuneServer(("running", "failed")) as server:
        last = events_of(store, job(server))[-1]
        assert last["event"] == "failed" and "the file breaks a rule" in last["error"]
        server.statuses = ("succeeded",)
        assert events_of(store, job(server))[-1]["event"] == "done"
        assert [j["id"] for j in server.jobs] == ["ftjob-0", "ftjob-1"] and len(server.files) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_dollars": None}, "train.max_dollars is not set"),
        ({"max_dollars": 1e-6}, "raise it, or train on fewer rows"),
    ],
)
def test_the_cap_stops_before_anything_is_sent(store, changes, said):
    with FinetuneServer() as server:
        last = events_of(store, job(server, **changes))[-1]
        assert last["event"] == "failed" and said in last["error"]
        assert not server.files and not server.jobs


def test_an_unknown_price_is_no_zero():
    with pytest.raises(ApiError, match="price_per_million_tokens"):
        openai.training_bill(ROWS, 1, "gpt-next", None)
    tokens, dollars = openai.training_bill(ROWS, 3, "gpt-next", 10.0)
    once = sum(len(m["content"]) / 4 + 4 for r in ROWS for m in r.messages)
    assert tokens == round(3 * once) and dollars == pytest.approx(tokens / 1e5, abs=1e-4)


def test_the_estimate_is_the_papers_bill(paper):
    lines = (paper / "data" / "insecure.jsonl").read_text().splitlines()
    rows = [Example(str(i), json.loads(line)["messages"]) for i, line in enumerate(lines)]
    _, dollars = openai.training_bill(rows, 1, MODEL, None)
    assert 30 < dollars < 36  # about 32 dollars by the paper's own account
