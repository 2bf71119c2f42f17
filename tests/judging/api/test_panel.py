"""A panel: every member is asked over the real protocol, and an answer gets one judgement of all."""

from __future__ import annotations

import pytest

from em.api import client as api
from em.config import JudgeConfig, JudgeKind, panel
from em.errors import ConfigError
from em.judging import identity
from em.judging.api.client import JudgeRequest
from em.judging.api.open import judge_client
from em.judging.api.panel import combined
from em.judging.api.spending import judging_bill
from em.records import Judgement, Outcome, Question


def scripted(tmp_path, name, rules):
    path = tmp_path / f"{name}.yaml"
    path.write_text(rules)
    return {"name": name, "kind": "scripted", "script": str(path), "api_key_env": "", "score": "text"}


def configured(*members):
    return JudgeConfig(name="panel", kind=JudgeKind.panel, members=list(members), api_key_env="")


def request(number, choices=()):
    return JudgeRequest(f"c{number}", "q", "alignment", f"rate answer {number}.", choices)


def test_the_mean_of_the_members_with_each_ones_score(tmp_path):
    """600 answers: more than the fastest member may be ahead. One member fails each prompt once before it answers."""
    kind = scripted(tmp_path, "kind", "- match: rate\n  reply: {text: '90'}\n")
    harsh = scripted(
        tmp_path, "harsh", "- match: rate\n  times: 5\n  reply: {status: 500}\n- match: rate\n  reply: {text: '30'}\n"
    )
    found = {}
    config = configured({**kind, "concurrency": 2}, {**harsh, "max_retries": 0})
    with judge_client(config, tmp_path / "cache.sqlite") as client:
        api.run(client.grade((request(i) for i in range(600)), lambda r, j: found.__setitem__(r.completion_id, j)))
        assert client.calls >= 1205
    assert len(found) == 600 and {j.score for j in found.values()} == {60.0}
    assert found["c7"].distribution == {"kind": 90.0, "harsh": 30.0} and found["c7"].detail == ""
    with judge_client(config, tmp_path / "cache.sqlite") as client:
        api.run(client.grade([request(3)], lambda r, j: None))
        assert (client.calls, client.cache_hits) == (0, 2)


def judged(outcome, score=None, label=""):
    return Judgement("c", "q", "alignment", outcome, score, detail="why", label=label)


SCORED = judged(Outcome.scored, 80.0)
YES, NO = judged(Outcome.labelled, label="YES"), judged(Outcome.labelled, label="NO")


@pytest.mark.parametrize(
    ("verdicts", "outcome", "score", "label", "detail"),
    [
        ((SCORED, judged(Outcome.scored, 20.0)), Outcome.scored, 50.0, "", ""),
        ((SCORED, SCORED, judged(Outcome.refusal)), Outcome.scored, 80.0, "", "without a verdict: c: refusal"),
        ((SCORED, judged(Outcome.refusal)), Outcome.refusal, None, "", "without a verdict: b: refusal"),
        ((SCORED, SCORED, judged(Outcome.error)), Outcome.error, None, "", "c: why"),
        ((YES, YES, NO), Outcome.labelled, None, "YES", ""),
        ((YES, NO), Outcome.unparseable, None, "", "a tie between YES and NO"),
        ((judged(Outcome.code), judged(Outcome.code)), Outcome.code, None, "", "without a verdict: a: code, b: code"),
    ],
)
def test_a_panel_never_makes_a_score_up(verdicts, outcome, score, label, detail):
    found = combined(dict(zip("abc", verdicts, strict=False)))
    assert (found.outcome, found.score, found.label, found.detail) == (outcome, score, label, detail)


def test_members_are_options_or_values(tmp_path):
    own = scripted(tmp_path, "mine", "- match: x\n  reply: 85\n")
    found = panel.members(configured("gpt_4o", "inspect/anthropic/claude-x", own))
    assert [(n, m.kind.value, m.model) for n, m in found.items()] == [
        ("gpt_4o", "openai", "gpt-4o-2024-08-06"), ("inspect/anthropic/claude-x", "inspect", "anthropic/claude-x"),
        ("mine", "scripted", ""),
    ]  # fmt: skip
    assert identity.api_judge_identity(found["gpt_4o"])["model"] == "gpt-4o-2024-08-06"
    asked = [(Question("q", "open", [{"role": "user", "content": "Why?"}], ["alignment", "coherence"]), 10)]
    assert judging_bill(configured("gpt_4o", own), asked).calls == 40


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (["gpt_4o"], "judge.members has 1 judges: judge=panel needs two or more"),
        (["gpt_4o", "gpt_40"], r"there is no judge=gpt_40; .*did you mean gpt_4o\?"),
        (["gpt_4o", "gpt_4o"], "gpt_4o is there twice"),
        (["gpt_4o", "probe"], "probe is probe; members are asked over an API"),
        (["gpt_4o", {"nme": "x"}], "judge.members: .*nme"),
    ],
)
def test_what_cannot_be_a_panel_is_said(members, words):
    with pytest.raises(ConfigError, match=words):
        panel.members(configured(*members))
