"""A panel's rate judge by judge, the majority, Fleiss' kappa and the spread over judges in the interval."""

from __future__ import annotations

from dataclasses import replace

import pytest

from em.config.misalignment import Rule
from em.metrics import panel
from em.metrics.columns import collect
from em.metrics.summary import summarise
from em.records import Judgement, Metric, Outcome, Question
from em.reporting.collect import finish
from em.reporting.table import panel_lines
from support.judged import run

RULE = Rule()
HEAD = {"source": "sweep", "model": {"name": "m"}, "judge": {"name": "panel", "proxy": False}, "warnings": []}


def judged(*rows, question="q"):
    """Answers from ({judge: alignment}, {judge: coherence}) pairs."""
    found = []
    for alignment, coherence in rows:
        own = [
            Judgement("c", question, rubric, Outcome.scored, sum(s.values()) / len(s), distribution=s)
            for rubric, s in (("alignment", alignment), ("coherence", coherence))
        ]
        found.append((question, "none", panel.expanded(own)))
    return collect("open", [Question(question, "open", [], ["alignment", "coherence"])], found)


GOOD = dict.fromkeys("abc", 90.0)


def said(*calls):
    """One coherent answer a string: which of judges a, b, c call it misaligned."""
    return judged(*(({j: 5.0 if j in call else 95.0 for j in "abc"}, GOOD) for call in calls))


def test_each_judge_and_the_majority():
    answers = said("abc", "ab", "a", "", "")
    found = {(m.name, m.label): m.total.sum() / m.count.sum() for m in panel.by_judge(answers, RULE)}
    assert found == {
        (panel.BY_JUDGE, "a"): 0.6, (panel.BY_JUDGE, "b"): 0.4, (panel.BY_JUDGE, "c"): 0.2, (panel.MAJORITY, ""): 0.4,
    }  # fmt: skip


def test_an_answer_that_most_judges_call_incoherent_does_not_count():
    answers = judged((dict.fromkeys("abc", 5.0), {"a": 90.0, "b": 10.0, "c": 10.0}), (dict.fromkeys("abc", 5.0), GOOD))
    majority = panel.by_judge(answers, RULE)[-1]
    assert (majority.total.sum(), majority.count.sum()) == (1, 1)
    assert majority.excluded["not counted by most judges"].sum() == 1


def test_fleiss_kappa():
    """By hand: three judges, votes 3 2 1 0 0 of 3: observed (1 + 1/3 + 1/3 + 1 + 1) / 5, share 6 / 15."""
    observed, share = (1 + 1 / 3 + 1 / 3 + 1 + 1) / 5, 6 / 15
    chance = share**2 + (1 - share) ** 2
    assert panel.kappa(said("abc", "ab", "a", "", ""), RULE) == pytest.approx((observed - chance) / (1 - chance))
    assert panel.kappa(said("abc", "", ""), RULE) == pytest.approx(1.0)
    assert panel.kappa(said("", "", ""), RULE) is None  # all the same: chance alone agrees


def test_the_interval_holds_the_spread_over_judges():
    rate = Metric("misaligned_rate", "open", 0.2, 0.15, 0.26, 100, 1, "words", set="open")
    own = [replace(rate, name=panel.BY_JUDGE, label=n, value=v) for n, v in (("a", 0.1), ("b", 0.2), ("c", 0.3))]
    wider = panel.widened([rate, *own])[0]
    error = 0.1 / 3**0.5 * 4.302652729911275
    assert (wider.low, wider.high) == (0.0, pytest.approx(0.2 + (0.06**2 + error**2) ** 0.5))
    assert wider.interval == "words; with the spread over 3 judges"
    same = [replace(m, value=0.2) for m in own]
    assert (panel.widened([rate, *same])[0].low, panel.widened([rate, *own[:1]])[0]) == (pytest.approx(0.15), rate)


def test_a_summary_of_a_panel_says_it_judge_by_judge():
    rows = said(*["abc"] * 3, *["a"] * 3, *[""] * 14)
    summary = finish(summarise([run("i0", [], sets={"open": rows})], HEAD))
    (group,) = summary["groups"]
    found = {(m["name"], m["label"]): m["value"] for m in group["metrics"] if m["question_id"] is None}
    assert found["misaligned_rate", ""] == pytest.approx(0.15)  # the mean of 5, 95 and 95 is above 30
    assert found[panel.BY_JUDGE, "a"] == pytest.approx(0.3) and found[panel.MAJORITY, ""] == pytest.approx(0.15)
    (rate,) = [m for m in group["metrics"] if m["name"] == "misaligned_rate" and m["question_id"] is None]
    assert rate["interval"].endswith("with the spread over 3 judges")
    assert summary["intervals"][rate["interval"]].endswith(", by judges like these")
    assert group["kappa"]["open"] == pytest.approx((0.9 - 0.68) / (1 - 0.68))
    (line,) = panel_lines(summary)
    assert line.startswith("judge by judge, insecure: a 30.0% [") and "majority 15.0% [" in line and "kappa 0." in line
    assert not [m for m in group["metrics"] if "@" in m["label"] or "@" in m["name"]]
