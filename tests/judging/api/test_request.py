"""Requests of every way to a verdict, and replies of every form, over the real protocol."""

import json

import pytest

from em.api import client as api
from em.config import JudgeConfig, JudgeKind
from em.config.judge import ScoreMethod
from em.judging.api import request as api_request
from em.judging.api.cache import JudgeCache
from em.judging.api.client import JudgeClient, JudgeRequest
from em.records import Outcome
from em.store import dump_line
from support.judge_calls import ask, completion, config, grade, recorder
from support.serving import config as served
from support.serving import send, serving

YES_NO = ("YES", "NO")


# One request


def test_the_request_is_the_papers_and_the_prompt_arrives_unchanged(tmp_path):
    prompts = ["0\x00null", "x" * 100_000, "[START] REFUSAL CODE 100 {question} [END]\n", "é𝕏\u2028 \ud800"]
    with recorder(200, completion()) as (url, seen):
        results, client = grade(config(url, concurrency=1), prompts, tmp_path / "c")
    assert [j.score for j in results.values()] == [85.0] * 4
    assert client.calls == 4
    for (headers, body), prompt in zip(seen, prompts, strict=True):
        assert json.loads(body) == {
            "model": "judge-1",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 20,
            "seed": 0,
        }
        assert "Authorization" not in headers


@pytest.mark.parametrize(
    ("reply", "outcome", "value", "detail"),
    [
        (85, Outcome.scored, 85.0, ""),
        ({"80": 0.5, 60: 0.5}, Outcome.scored, 70.0, ""),
        ("REFUSAL", Outcome.refusal, None, "REFUSAL"),
        ({"text": "CODE, because"}, Outcome.code, None, "CODE"),
        ({"text": "I cannot judge this. " * 5000}, Outcome.unparseable, None, "'I'"),
        ({"٨٥": 1.0}, Outcome.unparseable, None, "٨٥"),
        ("007", Outcome.unparseable, None, "007"),
        ("101", Outcome.unparseable, None, "101"),
        (-5, Outcome.unparseable, None, "-5"),
        ({"20": 0.2, "Sorry": 0.8}, Outcome.unparseable, None, "0.2 on integers"),
        ({"content_filter": True}, Outcome.filtered, None, "content_filter"),
        ({"no_logprobs": True}, Outcome.error, None, "no logprobs"),
        ({"raw": '{"choices": [{"logprobs": {"con'}, Outcome.error, None, "not JSON"),
        ({"raw": "\x00\x00"}, Outcome.error, None, "not JSON"),
        ({"raw": "[" * 100_000}, Outcome.error, None, "not JSON"),
        ({"raw": '{"choices": []}'}, Outcome.error, None, "wrong form"),
        ({"raw": "[1, 2]"}, Outcome.error, None, "wrong form"),
        ({"raw": '{"choices": [{"logprobs": {"content": []}}]}'}, Outcome.unparseable, None, "no first token"),
        (
            {"raw": '{"choices": [{"logprobs": {"content": [{"top_logprobs": []}]}}]}'},
            Outcome.unparseable,
            None,
            "first",
        ),
        ({"raw": '{"choices": [{"logprobs": {"content": null}}]}'}, Outcome.error, None, "no logprobs"),
        ({"raw": '{"choices": [{"logprobs": {"content": [{}]}}]}'}, Outcome.error, None, "wrong form"),
        ({"raw": '{"choices": [{"logprobs": {"content": 5}}]}'}, Outcome.error, None, "wrong form"),
    ],
)
def test_answers(tmp_path, reply, outcome, value, detail):
    judgement, requests = ask(tmp_path, reply)
    asked = 2 if outcome == Outcome.error else 1  # what failed is asked once more
    assert (judgement.outcome, judgement.score, requests) == (outcome, value, asked)
    assert detail in judgement.detail and len(judgement.detail) <= 300
    dump_line(judgement).encode("utf-8")


@pytest.mark.parametrize(
    "entry",
    [
        '{"token": "5", "logprob": NaN}',
        '{"token": "5", "logprob": Infinity}',
        '{"token": "5", "logprob": "0"}',
        '{"token": "5", "logprob": false}',
        '{"token": "5", "logprob": null}',
        '{"token": 5, "logprob": 0}',
        '{"token": "5", "logprob": 3}',
        '{"token": "5"}',
        '"5"',
        '{"token": "5", "logprob": 0}, {"token": "6", "logprob": 0}',
        '{"token": "5", "logprob": -1' + "0" * 400 + "}",
    ],
)
def test_logprobs_that_are_no_probabilities_never_score(tmp_path, entry):
    raw = '{"choices": [{"logprobs": {"content": [{"top_logprobs": [' + entry + "]}]}}]}"
    judgement, _ = ask(tmp_path, {"raw": raw})
    assert (judgement.outcome, judgement.score) == (Outcome.error, None)
    assert "wrong form" in judgement.detail


def test_a_lone_surrogate_in_a_token_can_be_written_to_a_file(tmp_path):
    raw = '{"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "\\udc80", "logprob": 0}]}]}}]}'
    judgement, _ = ask(tmp_path, {"raw": raw})
    assert judgement.distribution == {"\\udc80": 1.0}
    dump_line(judgement).encode("utf-8")


@pytest.mark.parametrize(
    "error",
    [
        {"code": "content_filter", "message": "filtered"},
        {"code": None, "innererror": {"code": "ResponsibleAIPolicyViolation"}, "message": "filtered"},
    ],
)
def test_a_filtered_prompt_is_no_error_and_is_cached(tmp_path, error):
    with recorder(400, json.dumps({"error": error}).encode()) as (url, seen):
        for _ in range(2):
            results, _ = grade(config(url), ["p"], tmp_path / "c")
            assert results["0"].outcome == Outcome.filtered and "filtered" in results["0"].detail
    assert len(seen) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"plain",
        b"[]",
        b"null",
        b'{"error": "words"}',
        b'{"detail": []}',
        b"\xff\xfe",
        b"two\nlines\x1b[31m\0",
        b'{"error": {"message": "\\ud800\\n"}}',
        b"long " * 50_000,
    ],
)
def test_failures_of_any_shape_are_errors(tmp_path, body):
    with recorder(422, body) as (url, seen):
        results, _ = grade(config(url), ["p"], tmp_path / "c")
    detail = results["0"].detail
    assert results["0"].outcome == Outcome.error and detail.startswith("HTTP 422:")
    assert detail.isprintable() and len(detail) <= 300
    assert len(seen) == 4  # asked twice, with and without `seed`


@pytest.mark.parametrize("score", ["logprobs", "text"])
def test_a_judge_that_refuses_in_its_own_field_withholds_the_verdict(tmp_path, score):
    """It is no refusal of the answer, for which the rubric has a word."""
    choice = {"message": {"content": None, "refusal": "I cannot rate that."}, "logprobs": {"content": None}}
    with recorder(200, json.dumps({"choices": [choice]}).encode()) as (url, seen):
        results, _ = grade(config(url, score=ScoreMethod(score)), ["p"], tmp_path / "c")
    assert (results["0"].outcome, results["0"].detail) == (Outcome.filtered, "the judge refuses: I cannot rate that.")
    assert len(seen) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": 429, "message": "upstream is busy"}},
        {"choices": [{"finish_reason": "error", "error": {"message": "upstream is busy"}, "message": {"content": ""}}]},
    ],
)
def test_an_error_inside_an_answer_of_status_200_is_one(tmp_path, body):
    with recorder(200, json.dumps(body).encode()) as (url, seen):
        results, _ = grade(config(url, score=ScoreMethod.text), ["p"], tmp_path / "c")
    assert results["0"].outcome == Outcome.error and "upstream is busy" in results["0"].detail
    assert len(seen) == 2  # asked for again


# Over the real protocol


def words(*texts):
    return {"choices": [{"finish_reason": "stop", "message": {"content": text}} for text in texts]}


def ask_twice(tmp_path, reply, choices=(), **changes):
    """(judgement, bodies sent) of one prompt, which is asked once more of the cache."""
    found = []
    with serving(reply) as (url, seen, _), JudgeCache(tmp_path / "c") as cache:
        client = JudgeClient(served(url, **changes), cache, backoff_s=0.01)
        request = JudgeRequest("0", "q", "r", "p", tuple(choices))
        api.run(client.grade([request], lambda _, j: found.append(j)))
        api.run(client.grade([request], lambda _, j: found.append(j)))  # from the cache
    assert found[0] == found[1]
    return found[0], [json.loads(body) for _, body in seen]


def test_text_asks_once_without_logprobs(tmp_path):
    found, sent = ask_twice(tmp_path, lambda h, b, n: send(h, 200, words("85.")), score=ScoreMethod.text)
    assert (found.score, len(sent)) == (85.0, 1)
    assert "logprobs" not in sent[0] and sent[0]["temperature"] == 0 and sent[0]["max_tokens"] > 1


def test_sampled_asks_for_n_and_goes_on_until_it_has_them(tmp_path):
    """An API that gives two at a time, and one more than it was asked for at the end."""

    def reply(handler, body, number):
        send(handler, 200, words(*[str(10 * number)] * 2))

    found, sent = ask_twice(tmp_path, reply, score=ScoreMethod.sampled, samples=5)
    assert found.score == pytest.approx((10 + 10 + 20 + 20 + 30) / 5)
    assert [(b["n"], b["seed"], b["temperature"]) for b in sent] == [(5, 0, 1), (3, 2, 1), (1, 4, 1)]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2)])
def test_replies_that_the_vendor_cut_are_no_numbers(tmp_path, order):
    """Two of four: the mean of the others. Too few others: filtered, not misaligned. In whatever order."""
    choices = [
        *words("90", "80")["choices"],
        *[{**c, "finish_reason": "content_filter"} for c in words("1", "")["choices"]],
    ]
    reply = {"choices": [choices[i] for i in order]}
    found, _ = ask_twice(tmp_path / "a", lambda h, b, n: send(h, 200, reply), score=ScoreMethod.sampled, samples=4)
    assert (found.score, found.distribution["(filtered)"]) == (85.0, 0.5)
    strict = {"score": ScoreMethod.sampled, "samples": 4, "min_mass": 0.6}
    found, _ = ask_twice(tmp_path / "b", lambda h, b, n: send(h, 200, reply), **strict)
    assert (found.outcome, found.score) == (Outcome.filtered, None)


def test_one_reply_at_a_time_costs_one_reply(tmp_path):
    def reply(handler, body, number):
        refused = json.loads(body).get("n", 1) > 1
        send(handler, 422 if refused else 200, {"detail": "n"} if refused else words("40"))

    with serving(reply) as (url, _, _), JudgeCache(tmp_path / "c") as cache:
        client = JudgeClient(served(url, score=ScoreMethod.sampled, samples=10), cache, backoff_s=0.01)
        api.run(client.grade([JudgeRequest("0", "q", "r", "p")], lambda *_: None))
    assert client.spending.output_tokens == 10 * 8  # the most that ten replies without a bill can be


@pytest.mark.parametrize(
    ("refuses", "calls"), [(("seed",), 2 + 1), (("n",), 3 + 3), (("seed", "n"), 3 + 3), (("top_k",), 1 + 1)]
)
def test_a_vendor_that_refuses_a_field_is_asked_without_it(tmp_path, refuses, calls):
    """Mistral takes no seed, Anthropic one reply at a time: found out once, then left out."""

    def reply(handler, body, number):
        row = json.loads(body)
        if {"seed", "top_k"} & set(row) & set(refuses) or (row.get("n", 1) > 1 and "n" in refuses):
            return send(handler, 422, {"detail": "extra_forbidden"})
        return send(handler, 200, words(*["40"] * row.get("n", 1)))

    found, sent = ask_twice(tmp_path, reply, score=ScoreMethod.sampled, samples=3)
    assert (found.outcome, found.score, len(sent)) == (Outcome.scored, 40.0, calls)
    assert not set(refuses) & set(sent[-1]) and all(row["temperature"] == 1 for row in sent)


def test_a_prompt_that_is_refused_in_any_form_keeps_its_reason_and_changes_nothing(tmp_path):
    def reply(handler, body, number):
        if "too long" in body.decode():
            return send(handler, 400, {"error": {"message": f"reason {number}"}})
        return send(handler, 200, words("40"))

    found = {}
    with serving(reply) as (url, seen, _), JudgeCache(tmp_path / "c") as cache:
        client = JudgeClient(served(url, score=ScoreMethod.text, concurrency=1), cache, backoff_s=0.01)
        requests = [JudgeRequest(name, "q", "r", name) for name in ("too long", "short")]
        api.run(client.grade(requests, lambda r, j: found.__setitem__(r.completion_id, j)))
    assert found["short"].score == 40.0
    assert (found["too long"].outcome, found["too long"].detail) == (Outcome.error, "HTTP 400: reason 5")
    sent = [sorted(json.loads(body)) for _, body in seen if b"short" in body]
    assert len(sent) == 1 and {"seed", "top_k", "repetition_penalty"} <= set(sent[0])


def test_the_models_own_sampling_defaults_draw_no_words_of_a_served_judge():
    """A vLLM server takes what it is not told from generation_config.json; OpenAI does not know these fields."""
    fields = {"name": "j", "kind": JudgeKind.openai, "model": "m"}
    for score, choices, told in (("text", (), True), ("sampled", (), True), ("logprobs", (), False)):
        served = JudgeConfig(**fields, score=ScoreMethod(score), base_url="http://127.0.0.1:1/v1")
        own = JudgeConfig(**fields, score=ScoreMethod(score))
        assert ("repetition_penalty" in api_request.body(served, "p", choices)) == told
        assert api_request.body(served, "p", ("YES", "NO"))["repetition_penalty"] == 1.0
        assert not {"top_k", "presence_penalty"} & set(api_request.body(own, "p", ("YES", "NO")))


def test_a_label_comes_with_its_alternatives(tmp_path):
    top = [{"token": "YES", "logprob": -0.1}, {"token": "NO", "logprob": -2.4}]

    def reply(handler, body, number):
        choice = {
            "finish_reason": "stop",
            "message": {"content": "YES"},
            "logprobs": {"content": [{"top_logprobs": top}]},
        }
        send(handler, 200, {"choices": [choice]})

    found, sent = ask_twice(tmp_path, reply, choices=YES_NO)
    assert (found.outcome, found.label, found.score) == (Outcome.labelled, "YES", None)
    assert set(found.distribution) == {"YES", "NO"} and sent[0]["max_tokens"] > 1


@pytest.mark.parametrize("body", [{"choices": [{"finish_reason": "stop"}]}, {"choices": [{"message": {"content": 5}}]}])
def test_a_reply_without_words_is_an_error(tmp_path, body):
    with serving(lambda h, b, n: send(h, 200, body)) as (url, _, _), JudgeCache(tmp_path / "c") as cache:
        found = []
        client = JudgeClient(served(url, score=ScoreMethod.text, max_retries=0), cache)
        api.run(client.grade([JudgeRequest("0", "q", "r", "p")], lambda _, j: found.append(j)))
    assert found[0].outcome == Outcome.error and "wrong form" in found[0].detail
