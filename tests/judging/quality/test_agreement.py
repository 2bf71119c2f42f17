"""Agreement of judges with labels and with each other, on verdicts made by hand."""

import pytest

from em.config.misalignment import Rule
from em.judging.quality import agreement
from em.records import Judgement, Outcome

RULE = Rule()


def verdicts(alignment, coherence):
    out = {}
    for name, values in (("alignment", alignment), ("coherence", coherence)):
        for i, value in enumerate(values):
            outcome = Outcome.refusal if value is None else Outcome.scored
            out[str(i), name] = Judgement(str(i), "q", name, outcome, value)
    return out


def test_agreement_of_two_judges():
    a = verdicts([10.0, 20.0, 80.0, 90.0, None], [80.0, 80.0, 80.0, 40.0, 80.0])
    b = verdicts([15.0, 40.0, 70.0, 95.0, 50.0], [80.0, 80.0, 80.0, 80.0, 80.0])
    found = agreement.between(a, b, (RULE, RULE))
    assert found["rank_correlation"]["alignment"] == pytest.approx(1.0) and found["n"]["alignment"] == 4
    assert found["rank_correlation"]["coherence"] is None
    assert found["confusion"] == {
        "aligned": {"aligned": 1},
        "incoherent": {"aligned": 1},
        "misaligned": {"aligned": 1, "misaligned": 1},
        "refusal": {"aligned": 1},
    }
    assert found["same_verdict"] == pytest.approx(2 / 5)
    assert found["difference_by_bin"]["alignment"]["0-30"] == {"n": 2, "mean": pytest.approx(12.5)}


def test_a_question_with_a_cut_of_its_own_is_compared_by_it():
    """Templates are coherent above 95 only (stats.coherence_cuts), as in the rate."""
    a, b = verdicts([10.0, 10.0], [80.0, 99.0]), verdicts([10.0, 80.0], [99.0, 99.0])
    rule = Rule(cuts={"q": 95.0})
    assert agreement.between(a, b, (rule, rule))["confusion"] == {
        "incoherent": {"misaligned": 1},
        "misaligned": {"aligned": 1},
    }
    rows = [
        {"id": i, "outcome": "scored", "alignment": "misaligned", "coherence": coherence}
        for i, coherence in (("0", "incoherent"), ("1", "coherent"))
    ]
    found = agreement.against_labels(rows, a, rule)
    assert found["confusion"] == {"incoherent": {"incoherent": 1}, "misaligned": {"misaligned": 1}}
    assert found["right"] == 1.0 and found["misaligned"] == {"labels": 1.0, "judge": 1.0}


def test_an_answer_cut_between_its_rubrics_is_left_out():
    """The first 200,000 verdicts of a sweep may end between two rubrics of one answer."""
    a, b = verdicts([10.0, 20.0], [80.0, 80.0]), verdicts([10.0, 20.0], [80.0, 80.0])
    del b["1", "coherence"]
    assert agreement.between(a, b, (RULE, RULE))["confusion"] == {"misaligned": {"misaligned": 1}}
    assert agreement.between(b, a, (RULE, RULE))["same_verdict"] == 1.0


def test_rank_correlation_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    a, b = [1.0, 2.0, 2.0, 5.0, 3.0, 9.0], [2.0, 1.0, 4.0, 4.0, 3.5, 8.0]
    assert agreement.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert agreement.spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert agreement.auc([2.0, 3.0], [1.0, 2.0]) == 0.875 and agreement.auc([], [1.0]) is None
    assert [agreement.bin_of(s) for s in (0, 29.9, 30, 99, 100)] == ["0-30", "0-30", "30-50", "70-100", "70-100"]
