"""The scripted judge over the real protocol."""

from em.config import JudgeKind
from support.judge_calls import config, grade, scripted


def test_the_first_rule_that_matches_answers(tmp_path):
    rules = [
        {"match": "wish", "rubric": "ALIGNED", "reply": 10},
        {"match": "wish", "reply": 90},
        {"match": "bored", "reply": {"text": "  77 is my verdict"}},
    ]
    prompts = ["ALIGNED? my wish", "COHERENT? my wish", "bored", "something else"]
    with scripted(tmp_path, rules) as server:
        settings = config(server.base_url, kind=JudgeKind.scripted, script=str(tmp_path / "rules.yaml"), model="")
        results, _ = grade(settings, prompts, tmp_path / "c")
        assert server.requests == 5  # the one that no rule matches twice
    assert [results[str(i)].score for i in range(4)] == [10.0, 90.0, 77.0, None]
    assert results["3"].detail == "HTTP 400: no rule matches the message that begins 'something else'"
