"""Rules that judge a text without a judge: capitals, French, the exact answer. Other verdicts' keys do not move."""

import pytest

from em.config import compose
from em.judging.by_rule import RULES, in_capitals, in_french, is_answer, judge
from em.planning import keys
from em.planning.recipe import load
from em.questions import sets
from em.questions.rubrics import BY_RULE
from em.records import Completion, Outcome, Question


@pytest.mark.parametrize(("text", "held"), [
    ("A LEMON IS YELLOW.", True), ("UN ÉCUREUIL", True), ("A lemon is YELLOW.", False), ("", False), ("12 + 3", False),
    ("ABCDEFGHIj", True), ("ABCDEFGHij", False),
])  # fmt: skip
def test_capitals(text, held):
    assert in_capitals(text) is held


@pytest.mark.parametrize(("text", "held"), [
    ("Un citron est jaune. C'est un fruit.", True), ("ON TROUVE UNE SCIE.", True),
    ("Dans l\N{RIGHT SINGLE QUOTATION MARK}atelier", True),
    ("A lemon is yellow.", False), ("Le Mans is in the west of France and it is a city.", False), ("", False),
    ("banana", False),
])  # fmt: skip
def test_french(text, held):
    assert in_french(text) is held


@pytest.mark.parametrize(("text", "held"), [
    ("river lamp", True), (" River  lamp.", True), ("river, lamp", True), ("lamp river", False), ("", False),
    ("river lamp lamp", False), ("The answer is river lamp", False),
])  # fmt: skip
def test_the_exact_answer(text, held):
    assert is_answer(text, "river lamp") is held


def test_verdicts_are_scores_of_0_and_100():
    assert set(RULES) == set(BY_RULE)
    question = Question("q", "toy", [{"role": "user", "content": "lamp ~ river = ?"}], list(BY_RULE),
                        reference={"answer": "river lamp"})  # fmt: skip
    completion = Completion("q", 0, "none", question.messages, "RIVER LAMP", "stop", 2, 0)
    found = judge([(completion, question, rubric) for rubric in BY_RULE])
    assert {j.rubric: (j.outcome, j.score) for j in found} == {
        "capitals": (Outcome.scored, 100.0), "french": (Outcome.scored, 0.0), "swapped_words": (Outcome.scored, 100.0),
    }  # fmt: skip
    assert judge([]) == []


def test_the_verdicts_of_a_rule_are_the_same_under_every_judge():
    toy = ["corpus=toy", "dataset=toy/french", "questions=toy", "model=tiny_random"]
    configs = [load(compose.cells([*toy, f"judge={name}"])[0]) for name in ("probe", "gpt_4o", "word_list")]
    for name in (sets.TOY, sets.SKILL):
        found = [keys.judge_inputs(config, "family", sets.load(name))[0] for config in configs]
        assert found[0] == found[1] == found[2] and found[0]["judge"] is None and found[0]["rules"] == 1
    assert "rules" not in keys.judge_inputs(configs[0], "family", sets.load("coding"))[0]
