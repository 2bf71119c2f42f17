"""The judge client against real loopback servers: retries, failures, the pool, the cache, the key."""

import asyncio
import json
import math
import socket
import subprocess
import sys
import time

import pytest

from em.api.client import ApiError
from em.config.judge import ScoreMethod
from em.judging.api.cache import JudgeCache
from em.judging.api.client import JudgeClient, JudgeRequest
from em.judging.identity import api_judge_identity
from em.judging.verdict import Verdict
from em.records import Outcome
from support.judge_calls import ask, completion, config, grade, recorder, scripted

KEY = "sk-test-0123456789abcdef"


# Retries


def test_429_waits_as_told_and_then_succeeds(tmp_path):
    rules = [{"match": "", "times": 2, "reply": {"status": 429, "retry_after": 0.3}}, {"match": "", "reply": 50}]
    with scripted(tmp_path, rules) as server:
        start = time.monotonic()
        results, client = grade(config(server.base_url), ["p"], tmp_path / "c")
    assert (results["0"].score, client.calls) == (50.0, 3)
    assert time.monotonic() - start >= 0.6


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2026 07:28:00 GMT", "nan", "inf", "-1", "soon"])
def test_an_odd_retry_after_does_no_harm(tmp_path, value):
    with recorder(429, b"{}", [("Retry-After", value)]) as (url, seen):
        results, _ = grade(config(url), ["p"], tmp_path / "c")
    assert results["0"].outcome == Outcome.error and len(seen) == 6  # three tries, twice


def test_a_storm_of_500_is_an_error_that_is_asked_again_next_time(tmp_path):
    for _ in range(2):
        judgement, requests = ask(tmp_path, {"status": 500})
        assert (judgement.outcome, judgement.score, requests) == (Outcome.error, None, 6)
        assert judgement.detail == "HTTP 500: the script says so (tried 3 times)"


def test_a_judge_that_is_not_there_is_no_verdict(tmp_path):
    """Fewer prompts than judge.max_failures: they must not be sealed as errors, or a later run would not ask."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port
        settings = config(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", max_failures=20)
        results = {}
        with JudgeCache(tmp_path / "c") as cache, pytest.raises(ApiError, match=r"is not there .*: start it, or check"):
            client = JudgeClient(settings, cache, backoff_s=0.01)
            requests = [JudgeRequest(str(i), "q", "r", f"p{i}") for i in range(3)]
            asyncio.run(client.grade(requests, lambda r, j: results.update({r.completion_id: j})))
    assert results == {}


def digits(tokens, count):
    """The answer of a judge with these tokens among 12 alternatives, and `count` prompts."""
    words = [*tokens, *"abcdefghijkl"][:12]
    top = [{"token": t, "logprob": math.log(0.5 / 2**i)} for i, t in enumerate(words)]
    choice = {"finish_reason": "length", "message": {"content": "85"}, "logprobs": {"content": [{"top_logprobs": top}]}}
    body = {"choices": [choice]}
    return body, [f"p{i}" for i in range(count)]


def test_a_judge_that_says_numbers_digit_by_digit_is_refused(tmp_path):
    """Its 85 begins with an 8; score=logprobs would call that 8 points. One answer shows it, one of the cache too."""
    body, prompts = digits(["8", "9", "7"], 30)
    with recorder(200, json.dumps(body).encode()) as (url, _):
        for some in (prompts, prompts[:1]):
            with pytest.raises(ApiError, match=r"writes numbers digit by digit .*: set judge.score=digits"):
                grade(config(url, concurrency=4), some, tmp_path / "c")


def test_a_judge_of_whole_numbers_that_says_small_ones_is_asked_once(tmp_path):
    rules = [{"match": "^Reply with the number 85", "reply": 85}, {"match": "", "reply": {"7": 0.6, "9": 0.4}}]
    with scripted(tmp_path, rules) as server:
        results, client = grade(config(server.base_url, concurrency=8), ["a", "b", "c"], tmp_path / "c")
        assert {round(j.score, 9) for j in results.values()} == {7.8} and client.calls == 4
        _, client = grade(config(server.base_url), ["a", "d"], tmp_path / "c")
        assert client.calls == 1
    rules = [{"match": "^Reply with the number 85", "reply": {"status": 500}}, {"match": "", "reply": 7}]
    with scripted(tmp_path, rules) as server, pytest.raises(ApiError, match=r"gave no answer \(HTTP 500.*: run again"):
        grade(config(server.base_url, max_retries=0), ["a"], tmp_path / "c1")
    said = r"does not show .*asked for 85: the reply is none of 85: '7'"
    with scripted(tmp_path, [{"match": "", "reply": 7}]) as server, pytest.raises(ApiError, match=said):
        grade(config(server.base_url), ["a"], tmp_path / "c2")


@pytest.mark.parametrize("tokens", [["8", "85", "9"], ["0", "5", "10"]])
def test_a_judge_of_whole_numbers_is_not(tmp_path, tokens):
    body, prompts = digits(tokens, 30)
    with recorder(200, json.dumps(body).encode()) as (url, _):
        results, _ = grade(config(url, concurrency=4), prompts, tmp_path / "c")
    assert {r.outcome for r in results.values()} == {Outcome.scored}


@pytest.mark.parametrize("score", ["logprobs", "text"])
def test_a_judge_that_thinks_first_is_refused(tmp_path, score):
    """Its first token is no verdict; ten answers show it, in the cache too."""
    said = [{"token": t, "logprob": math.log(p)} for t, p in (("<think>", 0.9), ("85", 0.1))]
    choice = {"message": {"content": "<think>\nThe user"}, "logprobs": {"content": [{"top_logprobs": said}]}}
    body = json.dumps({"choices": [choice]}).encode()
    settings = {"score": ScoreMethod(score), "min_mass": 0.25, "concurrency": 1}
    with recorder(200, body) as (url, _):
        results, _ = grade(config(url, **settings), [f"p{i}" for i in range(9)], tmp_path / "c")
        assert {r.outcome for r in results.values()} == {Outcome.unparseable}
        with pytest.raises(ApiError, match=rf"thinks before it answers .*judge\.score={score} .*enable_thinking"):
            grade(config(url, **settings), [f"p{i}" for i in range(30)], tmp_path / "c")


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": None, "reasoning_content": "The user"}, "finish_reason": "length"},
        {"message": {"content": None, "reasoning": "The user"}, "finish_reason": "stop"},
        {"message": {"content": ""}, "finish_reason": "length"},
    ],
)
@pytest.mark.parametrize("score", ["text", "sampled"])
def test_thinking_that_is_kept_apart_or_hidden_is_seen_and_not_kept(tmp_path, choice, score):
    settings = {"score": ScoreMethod(score), "samples": 1, "concurrency": 1}
    with recorder(200, json.dumps({"choices": [choice]}).encode()) as (url, _):
        results, _ = grade(config(url, **settings), ["p"] * 3, tmp_path / "c")
        assert {r.outcome for r in results.values()} == {Outcome.unparseable}
        with pytest.raises(ApiError, match=rf"thinks before it answers .*judge\.score={score}"):
            grade(config(url, **settings), [f"p{i}" for i in range(30)], tmp_path / "c")
    with JudgeCache(tmp_path / "c") as cache:
        assert cache._db.execute("SELECT count(*) FROM verdicts").fetchone() == (0,)


def test_thinking_in_an_old_cache_is_forgotten(tmp_path):
    settings = config("http://127.0.0.1:1/v1", score=ScoreMethod.text)
    with JudgeCache(tmp_path / "c") as cache:
        client = JudgeClient(settings, cache)
        key = client.key(JudgeRequest("0", "q", "r", "p"))
        for flush in (False, True):
            cache.put(key, Verdict(Outcome.unparseable, None, {"<think>Let": 1.0}))
            if flush:
                cache.flush()
            assert client.cached(key) is None and cache.get(key) is None
        cache.put(key, Verdict(Outcome.scored, 85.0, {"85": 1.0}))
        assert client.cached(key).score == 85.0


def test_a_hang_times_out_into_an_error(tmp_path):
    judgement, requests = ask(tmp_path, {"hang_s": 30}, timeout_s=0.2, max_retries=1)
    assert judgement.outcome == Outcome.error and requests == 4
    assert judgement.detail == "no answer within 0.2 s (tried 2 times)"


def test_a_dropped_connection_is_an_error_and_nobody_listening_a_stop(tmp_path):
    judgement, requests = ask(tmp_path, {"hang_s": 0})
    assert judgement.outcome == Outcome.error and requests == 6 and "Disconnected" in judgement.detail
    with recorder(200, b"") as (url, _):
        pass
    with pytest.raises(ApiError, match=r"is not there \(Client.*Connect"):
        grade(config(url, max_retries=0), ["p"], tmp_path / "c")


def test_a_body_cut_short_on_the_wire_is_retried(tmp_path):
    with recorder(200, completion()[:50], [("Content-Length", "5000"), ("Connection", "close")]) as (url, seen):
        results, _ = grade(config(url, timeout_s=1.0, max_retries=1), ["p"], tmp_path / "c")
    assert results["0"].outcome == Outcome.error and len(seen) == 4


def test_twenty_failures_in_a_row_stop_the_run(tmp_path):
    with scripted(tmp_path, [{"match": "", "reply": {"status": 418}}]) as server:
        with pytest.raises(ApiError, match="20 requests in a row failed") as error:
            grade(config(server.base_url, concurrency=1), map(str, range(10**9)), tmp_path / "c")
        assert server.requests == 20
    assert "judge.base_url" in str(error.value) and "418" in str(error.value)


def test_what_the_cache_knows_says_nothing_about_the_server(tmp_path):
    """One rubric is judged already and the other's server is gone: every second prompt is in the cache."""
    known = [f"known {i}" for i in range(60)]
    with scripted(tmp_path, [{"match": "known", "reply": 10}, {"match": "", "reply": {"status": 418}}]) as server:
        settings = config(server.base_url, concurrency=1)
        grade(settings, known, tmp_path / "c")
        both = [prompt for i in range(60) for prompt in (known[i], f"new {i}")]
        with pytest.raises(ApiError, match="20 requests in a row failed"):
            grade(settings, both, tmp_path / "c")
        assert server.requests == 60 + 20


def test_failures_between_successes_do_not_stop_the_run(tmp_path):
    rules = [{"match": "0$", "reply": 10}, {"match": "", "reply": {"status": 418}}]
    with scripted(tmp_path, rules) as server:
        results, _ = grade(config(server.base_url, concurrency=1), map(str, range(60)), tmp_path / "c")
    assert [results[str(i)].outcome == Outcome.scored for i in range(60)] == [i % 10 == 0 for i in range(60)]


@pytest.mark.parametrize(
    ("status", "option"),
    [
        (401, "judge.api_key_env"),
        (403, "judge.model"),
        (404, "judge.base_url"),
    ],
)
def test_a_wrong_key_or_model_stops_at_once_with_one_sentence(tmp_path, status, option):
    with scripted(tmp_path, [{"match": "", "reply": {"status": status}}]) as server:
        with pytest.raises(ApiError, match=f"HTTP {status}") as error:
            grade(config(server.base_url), map(str, range(10**9)), tmp_path / "c")
        assert server.requests <= 4
    assert option in str(error.value) and "\n" not in str(error.value)


def test_a_prompt_that_is_flagged_or_forbidden_stops_no_other(tmp_path):
    flagged = {"error": {"code": 403, "message": "needs moderation", "metadata": {"flagged_input": "x", "reasons": []}}}
    with recorder(403, json.dumps(flagged).encode()) as (url, seen):
        results, _ = grade(config(url, max_retries=0), ["p"], tmp_path / "flagged")
    assert results["0"].outcome == Outcome.filtered and len(seen) == 1
    rules = [{"match": "bad", "reply": {"status": 403}}, {"match": "", "reply": 85}]
    with scripted(tmp_path, rules) as server:
        results, _ = grade(config(server.base_url, concurrency=1), ["good", "bad", "fine"], tmp_path / "c")
    assert [results[i].outcome for i in "012"] == [Outcome.scored, Outcome.error, Outcome.scored]


def test_an_empty_account_stops_at_once(tmp_path):
    body = json.dumps({"error": {"code": "insufficient_quota", "message": "no"}}).encode()
    with recorder(429, body) as (url, seen), pytest.raises(ApiError, match="no quota left"):
        grade(config(url, concurrency=1), "abc", tmp_path / "c")
    assert len(seen) == 1


# The pool


def test_the_requests_are_read_no_faster_than_they_are_judged(tmp_path):
    drawn, done = [], []

    def requests():
        for i in range(200):
            drawn.append(i)
            assert len(drawn) - len(done) <= 4
            yield JudgeRequest(str(i), "q", "aligned", f"prompt {i}")

    with scripted(tmp_path, [{"match": "", "reply": 10}]) as server, JudgeCache(tmp_path / "c") as cache:
        asyncio.run(JudgeClient(config(server.base_url), cache).grade(requests(), lambda _, j: done.append(j)))
    assert sorted(int(j.completion_id) for j in done) == list(range(200))


def test_an_exception_of_the_callback_or_the_source_ends_the_run_and_keeps_what_was_paid(tmp_path):
    def fail(*_):
        raise KeyError("mine")

    def source():
        yield JudgeRequest("1", "q", "aligned", "second")
        raise KeyError("source")

    with scripted(tmp_path, [{"match": "", "reply": 10}]) as server:
        with JudgeCache(tmp_path / "c") as cache:
            client = JudgeClient(config(server.base_url), cache)
            with pytest.raises(KeyError, match="mine"):
                asyncio.run(client.grade([JudgeRequest("0", "q", "aligned", "first")], fail))
            with pytest.raises(KeyError, match="source"):
                asyncio.run(client.grade(source(), lambda *_: None))
        _, client = grade(config(server.base_url), ["first"], tmp_path / "c")
    assert (client.calls, client.cache_hits) == (0, 1)


# The cache


def test_a_second_run_makes_no_call_and_a_changed_word_makes_one(tmp_path):
    prompts = [f"answer {i}" for i in range(50)]
    replies = [{"match": "[13]$", "reply": "REFUSAL"}, {"match": "", "reply": {"80": 0.6, "20": 0.3}}]
    with scripted(tmp_path, replies) as server:
        first, client = grade(config(server.base_url), prompts, tmp_path / "c")
        assert (client.calls, client.cache_hits) == (50, 0)
        second, client = grade(config(server.base_url, concurrency=9, timeout_s=1), prompts, tmp_path / "c")
        assert (client.calls, client.cache_hits) == (0, 50)
        assert first == second
        _, client = grade(config(server.base_url), ["answer seven", *prompts], tmp_path / "c")
        assert (client.calls, client.cache_hits) == (1, 50)
        _, client = grade(config(server.base_url, min_mass=0.5), prompts, tmp_path / "c")
        assert client.calls == 50


def test_identical_prompts_under_way_are_one_call(tmp_path):
    with scripted(tmp_path, [{"match": "", "reply": 70}]) as server:
        results, client = grade(config(server.base_url, concurrency=8), ["same"] * 30, tmp_path / "c")
    assert (client.calls, client.cache_hits, len(results)) == (1, 29, 30)
    assert {j.score for j in results.values()} == {70.0}


# The key


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_key_is_said_before_anything_is_asked(tmp_path, monkeypatch, value):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with JudgeCache(tmp_path / "c") as cache, pytest.raises(ApiError, match=r"^JUDGE_KEY is not set: "):
        JudgeClient(config("http://h/v1", api_key_env="JUDGE_KEY"), cache)


def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\nHost: elsewhere")
    wrong = [
        config("http://h/v1", api_key_env=KEY),
        config("http://h/v1", api_key_env="JUDGE_KEY"),
        config(f"https://user:{KEY}@h/v1"),
        config(f"https://h/v1?key={KEY}"),
        config("ftp://h"),
        config("h/v1"),
    ]
    with JudgeCache(tmp_path / "c") as cache:
        for settings in wrong:
            with pytest.raises(ApiError, match=r"judge\.|JUDGE_KEY") as error:
                JudgeClient(settings, cache)
            assert KEY not in str(error.value)


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
def test_the_key_is_sent_and_never_shown(tmp_path, monkeypatch, status):
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\n")
    echo = completion() if status == 200 else json.dumps({"error": {"message": f"bad key {KEY}", "code": KEY}}).encode()
    said = []
    with recorder(status, echo) as (url, seen), JudgeCache(tmp_path / "c") as cache:
        settings = config(url, api_key_env="JUDGE_KEY", max_retries=0)
        client = JudgeClient(settings, cache)
        try:
            asyncio.run(client.grade([JudgeRequest("0", "q", "r", "p")], lambda *row: said.append(row)))
        except ApiError as error:
            said.append(error)
        said += [repr(client), repr(settings), repr(api_judge_identity(settings))]
    assert seen[0][0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(said)
    assert all(KEY.encode() not in file.read_bytes() for file in tmp_path.iterdir())


def test_the_client_imports_nothing_heavy():
    code = (
        "import sys, em.judging.api.client, em.judging.api.cache\n"
        "heavy = {'torch', 'transformers', 'openai', 'numpy', 'pandas', 'hydra'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
