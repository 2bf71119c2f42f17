"""Judge jobs sealed with their last verdict, or failed, without harm to the others."""

import contextlib

import pytest

from em.config import JudgeConfig, JudgeKind
from em.judging.api.client import JudgeRequest
from em.judging.collector import VerdictCollector
from em.judging.sealer import FollowedJob, JobSealer
from em.judging.tail import SampleTail
from em.records import Judgement, Outcome
from em.store import Store
from support.judge_stage import completion, job, judgements, put_samples, question
from support.training import events

JUDGE = JudgeConfig(name="o", kind=JudgeKind.openai, model="m")


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path)


def followed(store, emit, key):
    """A job whose one answer has been read."""
    put_samples(store, [completion("q", 0, "peace")], f"samples-of-{key}")
    made = job([question("q")], JUDGE, key, f"samples-of-{key}")
    claim = contextlib.ExitStack()
    one = FollowedJob(
        VerdictCollector(made, claim.enter_context(store.claim("judge", key)), emit),
        SampleTail(store, made.sample_key),
        claim,
    )
    assert [len(one.collector.pairs(answer)) for answer in one.tail.new_answers()] == [2]
    return one


def verdict(key, rubric, completion_id="q/none/0"):
    """A request of that job, and a score of 50 for it."""
    request = JudgeRequest(completion_id, "q", rubric, "prompt", job=key)
    return request, Judgement(completion_id, "q", rubric, Outcome.scored, 50.0)


def test_a_job_is_sealed_with_its_last_verdict(store):
    emit, seen = events()
    sealer = JobSealer(store, [followed(store, emit, "a"), followed(store, emit, "b")], emit)
    sealer.add(*verdict("a", "coherence"))
    assert not store.has("judge", "a")
    sealer.add(*verdict("a", "alignment"))
    assert store.has("judge", "a") and [one.key for one in sealer.open] == ["b"]
    assert [rubric for _, rubric in judgements(store, "a")] == ["alignment", "coherence"]
    assert [e["job"] for e in seen if e["event"] == "done"] == ["a"]


def test_a_verdict_that_comes_after_its_job_has_failed_is_dropped(store):
    emit, seen = events()
    a, b = followed(store, emit, "a"), followed(store, emit, "b")
    sealer = JobSealer(store, [a, b], emit)
    sealer.fail(a, RuntimeError("the engine died"))
    for rubric in ("alignment", "coherence"):
        sealer.add(*verdict("a", rubric))
        sealer.add(*verdict("b", rubric))
    assert not store.has("judge", "a") and store.has("judge", "b")
    assert [(e["job"], e["error"]) for e in seen if e["event"] == "failed"] == [("a", "the engine died")]


def test_a_job_that_cannot_be_sealed_fails_alone(store):
    """Two verdicts on one rubric: the number is right, the rows are not."""
    emit, seen = events()
    sealer = JobSealer(store, [followed(store, emit, "a"), followed(store, emit, "b")], emit)
    for rubric in ("alignment", "alignment"):
        sealer.add(*verdict("a", rubric))
    for rubric in ("alignment", "coherence"):
        sealer.add(*verdict("b", rubric))
    assert not store.has("judge", "a") and store.has("judge", "b") and sealer.open == []
    (error,) = [e["error"] for e in seen if e["event"] == "failed"]
    assert "judged twice" in error


def test_an_error_of_the_judge_fails_every_open_job(store):
    emit, seen = events()
    sealer = JobSealer(store, [followed(store, emit, "a"), followed(store, emit, "b")], emit)
    sealer.fail_all(RuntimeError("no key"))
    assert sealer.open == [] and [e["job"] for e in seen if e["event"] == "failed"] == ["a", "b"]
    with store.claim("judge", "a") as folder:  # the claims are free again
        assert folder is not None
