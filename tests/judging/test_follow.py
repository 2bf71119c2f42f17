"""The judge follows a sample stage while it grows: nothing is lost, nothing is asked or written twice."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from em.config import JudgeConfig, JudgeKind, ModelConfig
from em.judging import follow
from em.judging.follow import FailureReports
from em.judging.job import JudgeJob
from em.records import Completion, Judgement, Outcome, Question
from em.runtime.events import FD_VARIABLE, Emitter
from em.store import Store, checked_rows, dump_line, job_file, read_jsonl
from em.store.layout import JUDGEMENTS
from support.sampler import Sampler

TEXTS = {"alignment": "ALIGNED <{answer}>", "coherence": "COHERENT <{answer}>"}


QUESTIONS = [
    Question(name, "open", [{"role": "user", "content": name}], list(TEXTS), judge_prompts=TEXTS) for name in "ab"
]


RULES = [
    {"match": "ALIGNED <.* ([0-9]+)>", "reply": 20},
    {"match": "<broken>", "reply": {"status": 500}},
    {"match": "COHERENT", "reply": 90},
]


def row(index, question="a", text=None):
    return Completion(question, index, "none", [], text or f"answer {index}", "stop", 3, 1)


def config(tmp_path, rules=RULES, **changes):
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rules))
    fields = {"name": "scripted", "kind": JudgeKind.scripted, "script": str(path), "concurrency": 3, "max_retries": 0}
    return JudgeConfig(**{**fields, **changes})


def job(settings, key="j", samples="s"):
    return JudgeJob(
        key=key,
        label=key,
        sample_key=samples,
        questions=tuple(QUESTIONS),
        judge=settings,
        model=ModelConfig(name="tiny", path="asset:tiny_random"),
        inputs={"test": key},
    )


class FollowThread:
    """follow.run in a thread."""

    def __init__(self, store, settings, *jobs, ended=False):
        self.events = []
        self.reports = FailureReports()
        self.reports.listen = lambda: None
        self.reports.ended = ended
        emit = Emitter(lambda line: self.events.append(json.loads(line)))
        self.thread = threading.Thread(target=follow.run, args=(store, list(jobs), settings, emit, self.reports))
        self.thread.start()

    def wait(self, ready):
        until = time.monotonic() + 20
        while not ready():
            assert time.monotonic() < until and self.thread.is_alive(), self.events
            time.sleep(0.01)

    def judged(self, count):
        self.wait(lambda: any(e["event"] == "progress" and e["done"] >= count for e in self.events))

    def join(self):
        self.thread.join(30)
        assert not self.thread.is_alive(), self.events
        return [e["error"] for e in self.events if e["event"] == "failed"]

    def count(self, name):
        return sum(e["by"] for e in self.events if e["event"] == "count" and e["name"] == name)


def judged(store, key="j"):
    return list(read_jsonl(store.path("judge", key) / JUDGEMENTS, Judgement))


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "out")


def test_judging_begins_with_the_first_rows_and_ends_with_the_stage(store, tmp_path):
    settings = config(tmp_path)
    run = FollowThread(store, settings, job(settings))
    time.sleep(0.15)  # nothing is there yet, not even the folder
    sampler = Sampler(store)
    sampler.draw(row(1), row(0, "b"))
    run.judged(4)
    assert not store.has("sample", "s")
    sampler.draw(row(0))
    sampler.seal()
    assert run.join() == []
    found = judged(store)
    order = [f"{q}/none/{i}" for q, i in (("a", 0), ("a", 1), ("b", 0))]
    assert [(j.completion_id, j.rubric) for j in found] == [(c, r) for c in order for r in TEXTS]
    assert {(j.rubric, j.score) for j in found} == {("alignment", 20.0), ("coherence", 90.0)}
    assert store.manifest("judge", "j")["facts"]["rows"] == 6
    assert (run.count("judge_calls"), run.count("judge_cache_hits")) == (4, 2)  # b/0 has the text of a/0
    assert [e["event"] for e in run.events if e["event"] in ("started", "done")] == ["started", "done"]
    shown = [(e["job"], e["done"], e["total"]) for e in run.events if e["event"] == "progress"]
    assert {job for job, *_ in shown} == {"all answers"} and shown[-1][1:] == (6, 6)


def test_a_half_line_waits_and_a_restarted_sampler_cuts_it_off(store, tmp_path):
    settings = config(tmp_path)
    sampler = Sampler(store)
    sampler.draw(row(0))
    whole = sampler.path.stat().st_size
    with sampler.path.open("a") as file:
        file.write(dump_line(row(1, text="never finished"))[:40])
    run = FollowThread(store, settings, job(settings))
    run.judged(2)
    time.sleep(0.3)
    with sampler.path.open("r+b") as file:
        file.truncate(whole)  # what a restart does; it draws in another order then
    sampler.draw(row(2), row(1))
    run.judged(6)
    sampler.seal()
    assert run.join() == []
    assert run.count("judge_calls") == 6 == len(judged(store))


@pytest.mark.parametrize("change", [(b"answer 1", b"answer 9"), (b'"question_id"', b"")], ids=["readable", "broken"])
def test_a_damaged_row_is_never_judged(store, tmp_path, change):
    """As a sweep goes on after a disk has changed a row: the judge is there first, the sampler draws the row again."""
    settings = config(tmp_path)
    sampler = Sampler(store)
    sampler.draw(row(0), row(1), row(2))
    lines = sampler.path.read_bytes().splitlines(keepends=True)
    sampler.path.write_bytes(lines[0] + lines[1].replace(*change) + lines[2])
    run = FollowThread(store, settings, job(settings))
    run.judged(4)
    good, bad = checked_rows.read(sampler.path)
    assert (len(good), len(bad)) == (2, 1)
    checked_rows.keep_only(sampler.path, good)
    sampler.rows.pop(1)
    sampler.draw(row(1, text="drawn again 1"))
    sampler.seal()
    assert run.join() == []
    assert len(judged(store)) == 6 == run.count("judge_calls")


def test_rows_that_only_the_sealed_file_shows_are_judged_too(store, tmp_path):
    settings = config(tmp_path)
    sampler = Sampler(store)
    sampler.draw(row(0), row(1))
    run = FollowThread(store, settings, job(settings))
    run.judged(4)
    sampler.seal(extra=[row(2), row(0, "b")])
    assert run.join() == []
    assert len(judged(store)) == 8


def test_a_failed_sample_job_fails_its_judge_job_and_no_other(store, tmp_path):
    settings = config(tmp_path)
    one, two = Sampler(store, "one"), Sampler(store, "two")
    one.draw(row(0))
    two.draw(row(5))
    run = FollowThread(store, settings, job(settings, "j1", "one"), job(settings, "j2", "two"))
    run.judged(4)
    run.reports.failed["one"] = "the engine died"
    run.wait(lambda: any(e["event"] == "failed" for e in run.events))
    two.draw(row(6))
    two.seal()
    assert run.join() == ["the engine died"]
    assert len(judged(store, "j2")) == 4 and not store.has("judge", "j1")


def test_a_stage_that_nobody_draws_is_said(store, tmp_path):
    settings = config(tmp_path)
    Sampler(store).draw(row(0))
    assert FollowThread(store, settings, job(settings), ended=True).join() == [
        "sample stage s is not finished and nobody is sampling it"
    ]


def test_a_sealed_stage_needs_no_reports(store, tmp_path):
    settings = config(tmp_path)
    sampler = Sampler(store)
    sampler.draw(*(row(i) for i in range(30)))
    sampler.seal()
    assert FollowThread(store, settings, job(settings), ended=True).join() == []
    assert len(judged(store)) == 60


def test_a_row_that_is_no_answer_fails_the_job_by_name(store, tmp_path):
    settings = config(tmp_path)
    sampler = Sampler(store)
    file = checked_rows.RowWriter(sampler.path)
    file.append({"question_id": "a"})
    (error,) = FollowThread(store, settings, job(settings)).join()
    assert "completions.jsonl" in error and "not an answer" in error


def test_what_failed_is_asked_once_more_and_stays_an_error(store, tmp_path):
    settings = config(tmp_path)
    sampler = Sampler(store)
    sampler.draw(row(0), row(1, text="broken"), row(2))
    sampler.seal()
    run = FollowThread(store, settings, job(settings))
    assert run.join() == []
    outcomes = [(j.completion_id, j.outcome) for j in judged(store) if j.outcome != Outcome.scored]
    assert outcomes == [("a/none/1", Outcome.error)] * 2
    assert run.count("judge_calls") == 8


def test_the_breaker_fails_every_job_with_one_sentence(store, tmp_path):
    settings = config(tmp_path, rules=[{"match": "", "reply": {"status": 418}}], max_failures=5)
    for key in ("one", "two"):
        sampler = Sampler(store, key)
        sampler.draw(*(row(i, text=f"{key} {i}") for i in range(40)))
        sampler.seal()
    run = FollowThread(store, settings, job(settings, "j1", "one"), job(settings, "j2", "two"))
    errors = run.join()
    assert len(errors) == 2 and len(set(errors)) == 1 and errors[0].startswith("5 requests in a row failed")
    assert run.count("judge_calls") < 15


def test_reports_come_on_standard_input_of_the_worker(store, tmp_path):
    """The whole worker, as the scheduler starts it: a failed sample job is told while it waits."""
    settings = config(tmp_path)
    sampler = Sampler(store)
    sampler.draw(row(0))
    batch = tmp_path / "batch.json"
    job_file.write(batch, tmp_path / "out", [job(settings)])
    environment = {k: v for k, v in os.environ.items() if k != FD_VARIABLE}
    root = str(Path(follow.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-m", "em.sweep.worker", "judge", str(batch)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as worker:
        for line in worker.stderr:
            if '"progress"' in line:
                break
        worker.stdin.write(json.dumps({"event": "failed", "stage": "sample", "key": "s", "error": "no memory"}) + "\n")
        worker.stdin.flush()
        rest = worker.stderr.read()
        assert worker.wait(60) == 0
    assert '"failed"' in rest and "no memory" in rest
