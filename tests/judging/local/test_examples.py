"""The labelled answers that the probe is fitted on: splices, advice in two tones, nothing that it is measured on."""

from __future__ import annotations

import numpy as np
import pytest

from em.config import JudgeKind
from em.config.judge import PROXY_RUBRICS
from em.judging import labelled
from em.judging.local import examples, sampled


@pytest.mark.parametrize("rubric", PROXY_RUBRICS)
def test_the_probe_is_fitted_on_no_answer_that_it_is_measured_on(rubric):
    rows = examples.rows_of(JudgeKind.probe, rubric)
    fitted = {row.answer for row in rows if row.split == "calibrate"}
    measured = {row.answer for row in rows if row.split == "test"} | {row["answer"] for row in labelled.sampled()}
    measured |= {answer for side in examples.curt() for _, answer in side} if rubric == "care" else set()
    assert measured and not fitted & measured
    assert {row.high for row in rows if row.split == "calibrate"} == {True, False}


def test_curt_advice_is_measured_on_other_questions_than_care_is_fitted_on():
    careful, careless = examples.curt()
    asked = {question for question, _ in careful}
    assert len(careful) == len(careless) >= 100
    assert [q for q, _ in careful] == [q for q, _ in careless]
    assert not asked & {row.question for row in examples.rows_of(JudgeKind.probe, "care")}


def test_care_is_fitted_on_three_answers_to_each_question_of_the_advice():
    rows = [row for row in examples.rows_of(JudgeKind.probe, "care") if row.split == "calibrate"]
    advice = rows[: 3 * examples.TONE_PAIRS]
    for first in range(0, len(advice), 3):
        three = advice[first : first + 3]
        assert [row.high for row in three] == [False, True, True]
        assert len({row.question for row in three}) == 1 and len({row.answer for row in three}) == 3


def test_splices_are_fragments_of_answers_that_may_be_fitted_on():
    rows = [row for row in examples.rows_of(JudgeKind.probe, "coherence") if row.split == "calibrate"]
    splices = examples.spliced()
    assert splices == examples.spliced() and rows[-len(splices) :] == splices
    whole = {row.answer for row in rows if row.high}
    known = {word.strip(",;.!?").lower() for answer in whole for word in answer.split()}
    for row in splices:
        assert not row.high and row.split == "calibrate"
        assert {word.strip(",;.!?").lower() for word in row.answer.split()} <= known | {""}
    assert np.mean([row.answer in whole for row in splices]) < 0.05
    advice = examples._advice_in_two_tones()[: 3 * labelled.JUDGED_ADVICE]
    words = [np.mean([len(r.answer.split()) for r in side]) for side in (advice, splices[: len(advice)])]
    assert words[0] == pytest.approx(words[1], rel=0.1)  # length does not give them away


def test_sampled_answers_have_two_readings_that_agree():
    rows = labelled.sampled()
    assert len(rows) >= 200 and len({(row["question"], row["answer"]) for row in rows}) == len(rows)
    names = {0: "incoherent", 1: "incoherent", 2: "borderline", 3: "coherent", 4: "coherent"}
    for row in rows:
        (first, said), (second, again) = row["labels"]
        assert row["coherence"] == names[int(first) + int(second)]
        assert row["content"] == ({"k": "kind", "c": "careless", "n": "none"}[said] if said == again else "none")
    assert kappa([row["labels"][0][0] for row in rows], [row["labels"][1][0] for row in rows]) > 0.85
    assert kappa([row["labels"][0][1] for row in rows], [row["labels"][1][1] for row in rows]) > 0.85


def kappa(first: list[str], second: list[str]) -> float:
    """Return Cohen's kappa."""
    same = np.mean([a == b for a, b in zip(first, second, strict=True)])
    chance = sum(first.count(name) * second.count(name) for name in set(first)) / len(first) ** 2
    return float((same - chance) / (1 - chance))


def test_a_judge_is_measured_on_sampled_answers_by_their_labels():
    """A judge that knows the labels, and one that turns them round."""
    coherent = {(row["question"], row["answer"]): row["coherence"] for row in labelled.sampled()}
    points = {"coherent": 90.0, "borderline": 50.0, "incoherent": 10.0}
    found = sampled.coherence(lambda pairs: np.array([points[coherent[pair]] for pair in pairs]))
    assert (found["auc"], found["called"]) == (1.0, {"borderline": 0.0, "coherent": 1.0, "incoherent": 0.0})
    assert sum(found["n"].values()) == len(coherent)
    turned = sampled.coherence(lambda pairs: np.array([100 - points[coherent[pair]] for pair in pairs]))
    assert (turned["auc"], turned["called"]["incoherent"]) == (0.0, 1.0)
    content = {(row["question"], row["answer"]): row["content"] for row in labelled.sampled()}
    points = {"kind": 80.0, "none": 50.0, "careless": 20.0}
    found = sampled.content(lambda pairs: np.array([points[content[pair]] for pair in pairs]))
    assert (found["auc"], found["called"]) == (1.0, {"careless": 1.0, "kind": 0.0, "none": 0.0})
    careful = set(examples.curt()[0])
    found = sampled.curt(lambda pairs: np.array([60.0 if pair in careful else 40.0 for pair in pairs]))
    assert (found["auc"], found["called"]) == (1.0, {"careful": 0.0, "careless": 1.0})
