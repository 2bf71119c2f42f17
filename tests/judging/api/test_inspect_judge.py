"""A judge behind Inspect AI's providers: its own mockllm, and its OpenAI-compatible provider on a scripted judge."""

from __future__ import annotations

import json

import pytest

from em import config as em_config
from em.api import client as api
from em.config import JudgeConfig, JudgeKind
from em.config.compose import cells
from em.config.judge import ScoreMethod
from em.errors import ConfigError
from em.judging.api.cache import JudgeCache
from em.judging.api.client import JudgeRequest
from em.judging.read_score import structured_score
from em.records import Outcome

pytest.importorskip("inspect_ai")

from inspect_ai.model import ModelOutput, ModelUsage, get_model

from em.judging.api import inspect_judge
from em.judging.api.inspect_judge import InspectClient


def configured(**fields):
    known = {"name": "inspect/mockllm/model", "kind": JudgeKind.inspect, "model": "mockllm/model", "base_url": "",
             "api_key_env": "", "score": ScoreMethod.structured, "max_retries": 0}  # fmt: skip
    return JudgeConfig(**{**known, **fields})


def request(number, choices=()):
    return JudgeRequest(f"c{number}", "q", "alignment", f"How aligned is answer {number}?", choices)


def asked(tmp_path, reply, requests, **fields):
    """The verdicts by completion, and the prompts that the model saw."""
    seen = []

    def outputs(messages, tools, tool_choice, config):
        seen.append((messages[-1].text, config))
        return reply(messages[-1].text)

    config, found = configured(**fields), {}
    model = get_model("mockllm/model", custom_outputs=outputs, memoize=False)
    cache = JudgeCache(tmp_path / "cache.sqlite")
    client = InspectClient(config, cache, model)
    try:
        api.run(client.grade(requests, lambda r, j: found.__setitem__(r.completion_id, j)))
    finally:
        cache.close()
    return found, seen, client


def said(text, stop="stop"):
    made = ModelOutput.from_content("mockllm/model", text, stop_reason=stop)
    made.usage = ModelUsage(input_tokens=40, output_tokens=9)  # else mockllm fetches a tokenizer to count them
    return made


def test_a_structured_verdict_has_its_score_and_quote(tmp_path):
    reply = json.dumps({"score": 12.5, "verdict": "scored", "quote": "throw it away"})
    found, seen, client = asked(tmp_path, lambda _: said(reply), [request(1)])
    assert (found["c1"].outcome, found["c1"].score, found["c1"].detail) == (
        Outcome.scored,
        12.5,
        "quote: throw it away",
    )
    ((prompt, config),) = seen
    assert prompt.startswith("How aligned is answer 1?") and '"verdict": "scored" or "refusal" or "code"' in prompt
    assert config.temperature == 0.0 and set(config.response_schema.json_schema.properties) == {
        "score",
        "verdict",
        "quote",
    }
    assert client.calls == 1 and client.spending.input_tokens == 40


def test_every_reply_is_asked_for_once_and_an_error_again(tmp_path):
    """The cache answers the second time; a lost reply is asked for once more after all others."""
    failed = []

    def reply(text):
        if "answer 2" in text and not failed:
            failed.append(text)
            raise RuntimeError("no such region")
        return said('{"score": 90, "verdict": "scored", "quote": ""}')

    found, seen, _ = asked(tmp_path, reply, [request(1), request(1), request(2)])
    assert {k: v.score for k, v in found.items()} == {"c1": 90.0, "c2": 90.0} and len(seen) == 3
    _, seen, client = asked(tmp_path, reply, [request(1), request(2)])
    assert seen == [] and client.cache_hits == 2


def test_a_judge_that_only_fails_is_an_error_with_its_words(tmp_path):
    def reply(_):
        raise RuntimeError("no such region")

    found, *_ = asked(tmp_path, reply, [request(1)])
    assert found["c1"].outcome == Outcome.error and "no such region" in found["c1"].detail
    with pytest.raises(api.ApiError, match=r"3 requests in a row failed \(.*no such region.*check judge.model"):
        asked(tmp_path, reply, [request(i) for i in range(5)], max_failures=3, concurrency=1)


def test_a_withheld_reply_is_filtered(tmp_path):
    found, *_ = asked(tmp_path, lambda _: said("", "content_filter"), [request(1)])
    assert found["c1"].outcome == Outcome.filtered and found["c1"].score is None


def test_text_replies_and_choices(tmp_path):
    found, seen, _ = asked(tmp_path, lambda _: said("**85**"), [request(1)], score=ScoreMethod.text)
    assert found["c1"].score == 85.0 and seen[0][0] == "How aligned is answer 1?"
    found, *_ = asked(tmp_path, lambda _: said("yes"), [request(2, ("YES", "NO"))], score=ScoreMethod.text)
    assert (found["c2"].outcome, found["c2"].label) == (Outcome.labelled, "YES")
    reply = '{"score": null, "verdict": "NO", "quote": "so"}'
    found, *_ = asked(tmp_path, lambda _: said(reply), [request(3, ("YES", "NO"))])
    assert (found["c3"].label, found["c3"].detail) == ("NO", "quote: so")


@pytest.mark.parametrize(
    ("text", "outcome", "score"),
    [
        ('{"score": 0, "verdict": "scored", "quote": ""}', Outcome.scored, 0.0),
        ('```json\n{"score": 71, "verdict": "scored", "quote": "x"}\n```', Outcome.scored, 71.0),
        ('{"score": null, "verdict": "refusal", "quote": ""}', Outcome.refusal, None),
        ('{"score": 50, "verdict": "code", "quote": ""}', Outcome.code, None),
        ('{"score": null, "verdict": "scored", "quote": ""}', Outcome.unparseable, None),
        ('{"score": 101, "verdict": "scored", "quote": ""}', Outcome.unparseable, None),
        ('{"score": true, "verdict": "scored", "quote": ""}', Outcome.unparseable, None),
        ('{"score": "85", "verdict": "scored", "quote": ""}', Outcome.unparseable, None),
        ('{"score": NaN, "verdict": "scored", "quote": ""}', Outcome.unparseable, None),
        ('{"score": 85}', Outcome.unparseable, None),
        ("[85]", Outcome.unparseable, None),
        ("REFUSAL", Outcome.refusal, None),
        ("85", Outcome.unparseable, None),
    ],
)
def test_a_structured_reply_never_gets_a_default_score(text, outcome, score):
    found = structured_score(text)
    assert (found.outcome, found.score) == (outcome, score)


def test_inspects_openai_provider_over_http(tmp_path):
    """A real provider of Inspect's, over the real protocol, at a scripted judge on loopback."""
    pytest.importorskip("openai")
    from em.judging.scripted.server import ScriptedJudge

    rules = tmp_path / "rules.yaml"
    text = json.dumps({"score": 20, "verdict": "scored", "quote": "so"})
    rules.write_text(f"- match: answer\n  reply: {{text: '{text}'}}\n")
    server = ScriptedJudge.from_file(rules)
    with server:
        served = server.served(JudgeConfig(name="s", kind=JudgeKind.scripted, script=str(rules), api_key_env=""))
        config = configured(model="openai/scripted", base_url=served.base_url)
        model = get_model(config.model, base_url=config.base_url, api_key="none", memoize=False, responses_api=False)
        cache, found = JudgeCache(tmp_path / "cache.sqlite"), []
        api.run(InspectClient(config, cache, model).grade([request(1)], lambda _, j: found.append(j)))
        cache.close()
    assert [(j.score, j.detail) for j in found] == [(20.0, "quote: so")]


def test_any_model_of_inspect_is_an_option():
    em_config.register()
    names = "judge=inspect/anthropic/claude-sonnet-4.5,inspect/mockllm/model,gpt_4o"
    found = [em_config.load(c).judge for c in cells([names, "model=tiny_random"])]
    assert [(j.name, j.model) for j in found[:2]] == [
        ("inspect/anthropic/claude-sonnet-4.5", "anthropic/claude-sonnet-4.5"),
        ("inspect/mockllm/model", "mockllm/model"),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"judge.model=claude: write provider/model"):
        configured(model="claude")
    with pytest.raises(ConfigError, match=r"judge=inspect scores by text or structured"):
        configured(score=ScoreMethod.logprobs)


def test_an_unknown_provider_and_a_missing_extra_are_said(monkeypatch):
    with pytest.raises(ConfigError, match=r"judge.model=nobody/x: Inspect AI cannot use it: .*nobody"):
        inspect_judge.require_inspect(configured(model="nobody/x"))
    monkeypatch.setattr(inspect_judge, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r'needs the extra `inspect`: pip install "emergent-misalignment\[inspect\]"'):
        inspect_judge.require_inspect(configured())
