"""Ways to a verdict beside the first token's probabilities: words, several replies, labels."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from em.api import client as api
from em.config import JudgeConfig, JudgeKind
from em.config.judge import ScoreMethod
from em.errors import ConfigError
from em.judging.api import request as api_request
from em.judging.api.cache import JudgeCache
from em.judging.api.client import JudgeClient, JudgeRequest
from em.judging.identity import api_judge_identity
from em.judging.job import method
from em.judging.read_score import choice_score, majority_label, number, sampled_score, text_score
from em.questions.rubrics import load, names, parse
from em.records import Outcome
from support.serving import config, send, serving

YES_NO = ("YES", "NO")


@pytest.mark.parametrize(
    ("text", "value"),
    [("85", 85), (" 85.\n", 85), ("**100**", 100), ('"0"', 0), ("`7`", 7)],
)
def test_replies_that_are_a_number(text, value):
    assert number(text) == value
    assert text_score(text)[:2] == (Outcome.scored, float(value))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "85%",
        "007",
        "101",
        "-5",
        ".5",
        "0.5",
        "80-90",
        "85 out of 100",
        "Score: 85",
        "٨٥",
        "８５",
        "5\x00",
        "1e1",
        "²",
    ],
)
def test_replies_that_are_none(text):
    assert number(text) is None
    found = text_score(text)
    assert found.score is None and found.outcome != Outcome.scored and "no number" in found.detail


@given(st.text(max_size=12))
def test_a_text_scores_only_as_the_integer_it_shows(text):
    value = number(text)
    assert value is None or (0 <= value <= 100 and str(value) in text)


def test_words_instead_of_a_number():
    assert text_score("REFUSAL")[0] == Outcome.refusal and text_score(" Code.")[0] == Outcome.code


def test_sampled_replies():
    found = sampled_score(["80", "90", "90.", "no idea"], 0.25)
    assert (found.outcome, found.score) == (Outcome.scored, pytest.approx(260 / 3))
    assert found.distribution == {"80": 0.25, "90": 0.5, "no idea": 0.25}
    few = sampled_score(["80", "REFUSAL", "REFUSAL", "REFUSAL", "REFUSAL"], 0.25)
    assert (few.outcome, few.score) == (Outcome.refusal, None)
    assert sampled_score([], 0.25).outcome == Outcome.unparseable


@pytest.mark.parametrize(
    ("text", "label"),
    [("YES", "YES"), (" yes.\n", "YES"), ("**No**", "NO"), ("YES, because", ""), ("NOPE", ""), ("", "")],
)
def test_labels(text, label):
    found = choice_score(text, YES_NO, {})
    assert found.label == label and found.score is None
    assert (found.outcome == Outcome.labelled) == bool(label)


def test_labels_of_several_replies():
    assert majority_label(["YES", "no", "yes"], YES_NO, 0.25).label == "YES"
    assert majority_label(["YES", "NO"], YES_NO, 0.25).detail == "a tie between YES and NO"
    assert majority_label(["YES", "?", "?", "?", "?"], YES_NO, 0.25).outcome == Outcome.unparseable


# Over the real protocol


def words(*texts):
    return {"choices": [{"finish_reason": "stop", "message": {"content": text}} for text in texts]}


def ask(tmp_path, reply, choices=(), **changes):
    """(judgement, bodies sent) of one prompt."""
    found = []
    with serving(reply) as (url, seen, _), JudgeCache(tmp_path / "c") as cache:
        client = JudgeClient(config(url, **changes), cache, backoff_s=0.01)
        request = JudgeRequest("0", "q", "r", "p", tuple(choices))
        api.run(client.grade([request], lambda _, j: found.append(j)))
        api.run(client.grade([request], lambda _, j: found.append(j)))  # from the cache
    assert found[0] == found[1]
    return found[0], [json.loads(body) for _, body in seen]


def test_text_asks_once_without_logprobs(tmp_path):
    found, sent = ask(tmp_path, lambda h, b, n: send(h, 200, words("85.")), score=ScoreMethod.text)
    assert (found.score, len(sent)) == (85.0, 1)
    assert "logprobs" not in sent[0] and sent[0]["temperature"] == 0 and sent[0]["max_tokens"] > 1


def test_sampled_asks_for_n_and_goes_on_until_it_has_them(tmp_path):
    """An API that gives two at a time, and one more than it was asked for at the end."""

    def reply(handler, body, number):
        send(handler, 200, words(*[str(10 * number)] * 2))

    found, sent = ask(tmp_path, reply, score=ScoreMethod.sampled, samples=5)
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
    found, _ = ask(tmp_path / "a", lambda h, b, n: send(h, 200, reply), score=ScoreMethod.sampled, samples=4)
    assert (found.score, found.distribution["(filtered)"]) == (85.0, 0.5)
    strict = {"score": ScoreMethod.sampled, "samples": 4, "min_mass": 0.6}
    found, _ = ask(tmp_path / "b", lambda h, b, n: send(h, 200, reply), **strict)
    assert (found.outcome, found.score) == (Outcome.filtered, None)


def test_one_reply_at_a_time_costs_one_reply(tmp_path):
    def reply(handler, body, number):
        refused = json.loads(body).get("n", 1) > 1
        send(handler, 422 if refused else 200, {"detail": "n"} if refused else words("40"))

    with serving(reply) as (url, _, _), JudgeCache(tmp_path / "c") as cache:
        client = JudgeClient(config(url, score=ScoreMethod.sampled, samples=10), cache, backoff_s=0.01)
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

    found, sent = ask(tmp_path, reply, score=ScoreMethod.sampled, samples=3)
    assert (found.outcome, found.score, len(sent)) == (Outcome.scored, 40.0, calls)
    assert not set(refuses) & set(sent[-1]) and all(row["temperature"] == 1 for row in sent)


def test_a_prompt_that_is_refused_in_any_form_keeps_its_reason_and_changes_nothing(tmp_path):
    def reply(handler, body, number):
        if "too long" in body.decode():
            return send(handler, 400, {"error": {"message": f"reason {number}"}})
        return send(handler, 200, words("40"))

    found = {}
    with serving(reply) as (url, seen, _), JudgeCache(tmp_path / "c") as cache:
        client = JudgeClient(config(url, score=ScoreMethod.text, concurrency=1), cache, backoff_s=0.01)
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

    found, sent = ask(tmp_path, reply, choices=YES_NO)
    assert (found.outcome, found.label, found.score) == (Outcome.labelled, "YES", None)
    assert set(found.distribution) == {"YES", "NO"} and sent[0]["max_tokens"] > 1


def test_the_same_prompt_with_other_choices_or_another_way_is_another_question(tmp_path):
    one = config("http://h/v1")
    assert api_judge_identity(one) != api_judge_identity(config("http://h/v1", score=ScoreMethod.text))
    ten, five = (config("http://h/v1", score=ScoreMethod.sampled, samples=n) for n in (10, 5))
    assert api_judge_identity(ten) != api_judge_identity(five)
    with JudgeCache(tmp_path / "c") as cache:
        client = JudgeClient(one, cache)
        keys = {client.key(JudgeRequest("0", "q", "r", "p", c)) for c in ((), YES_NO, ("NO", "YES"))}
    assert len(keys) == 3


@pytest.mark.parametrize("body", [{"choices": [{"finish_reason": "stop"}]}, {"choices": [{"message": {"content": 5}}]}])
def test_a_reply_without_words_is_an_error(tmp_path, body):
    with serving(lambda h, b, n: send(h, 200, body)) as (url, _, _), JudgeCache(tmp_path / "c") as cache:
        found = []
        client = JudgeClient(config(url, score=ScoreMethod.text, max_retries=0), cache)
        api.run(client.grade([JudgeRequest("0", "q", "r", "p")], lambda _, j: found.append(j)))
    assert found[0].outcome == Outcome.error and "wrong form" in found[0].detail


# Rubrics


def test_every_rubric_of_the_project_can_be_asked():
    for name in names():
        rubric = load(name)
        assert "{answer}" in rubric.text and not rubric.text.startswith("choices")
        if rubric.choices:
            assert all(choice in rubric.text for choice in rubric.choices)


def test_rubric_files():
    rubric = parse("r", "choices: YES, NO\n\nIs it so?\n{answer}\n")
    assert rubric.choices == YES_NO and rubric.text == "Is it so?\n{answer}\n"
    for text, said in (("choices: YES\n\n{answer}", "two different"), ("nothing", "no {answer}")):
        with pytest.raises(ConfigError, match=said):
            parse("r", text)
    with pytest.raises(ConfigError, match="not one of"):
        load("absent")


def test_the_method_is_said_in_words():
    said = {method(config("http://h/v1", score=way)) for way in ScoreMethod}
    said |= {method(JudgeConfig(name="x", kind=kind, model="m")) for kind in (JudgeKind.probe, JudgeKind.persona_ratio)}
    assert len(said) == 6 and all(said)
