"""What identifies a judge in keys."""

from em.config import JudgeKind
from em.config.judge import ScoreMethod
from em.judging.api.cache import JudgeCache
from em.judging.api.client import JudgeClient, JudgeRequest
from em.judging.identity import api_judge_identity
from em.judging.scripted.rules import rules_hash
from support.judge_calls import config

YES_NO = ("YES", "NO")


def test_identity_holds_what_changes_a_verdict_and_nothing_else(tmp_path):
    base = config("http://h/v1/")
    assert api_judge_identity(base) == {
        "kind": "openai",
        "score": "logprobs",
        "model": "judge-1",
        "base_url": "http://h/v1",
        "top_logprobs": 20,
        "min_mass": 0.25,
    }
    same = config("http://h/v1", concurrency=1, timeout_s=1.0, alignment_below=1.0, coherence_cut=2.0, max_retries=0)
    assert api_judge_identity(base) == api_judge_identity(same)
    rules = tmp_path / "rules.yaml"
    rules.write_text("- {match: a, reply: 1}")
    one = config("http://127.0.0.1:1/v1", kind=JudgeKind.scripted, script=str(rules))
    two = config("http://127.0.0.1:2/v1", kind=JudgeKind.scripted, script=str(rules))
    assert api_judge_identity(one) == api_judge_identity(two) and api_judge_identity(one)["rules"] == rules_hash(rules)
    before = api_judge_identity(one)
    rules.write_text("- {match: a, reply: 2}")
    assert api_judge_identity(one) != before


def test_the_same_prompt_with_other_choices_or_another_way_is_another_question(tmp_path):
    one = config("http://h/v1")
    assert api_judge_identity(one) != api_judge_identity(config("http://h/v1", score=ScoreMethod.text))
    ten, five = (config("http://h/v1", score=ScoreMethod.sampled, samples=n) for n in (10, 5))
    assert api_judge_identity(ten) != api_judge_identity(five)
    with JudgeCache(tmp_path / "c") as cache:
        client = JudgeClient(one, cache)
        keys = {client.key(JudgeRequest("0", "q", "r", "p", c)) for c in ((), YES_NO, ("NO", "YES"))}
    assert len(keys) == 3
