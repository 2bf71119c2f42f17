"""A panel's rate judge by judge: each member's own, the majority's, their agreement, and the spread over judges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from em.config.misalignment import Rule
from em.metrics.columns import JudgedAnswers
from em.metrics.measures import Measure, Scorer, measure, misaligned
from em.records import Judgement, Metric, Outcome

AT = "@"
"""alignment@gpt_4o: the verdicts of one member."""
BY_JUDGE, MAJORITY = "misaligned_rate_of_judge", "misaligned_rate_of_majority"
SPREAD = "{}; with the spread over {} judges"


def expanded(judgements: Iterable[Judgement]) -> list[Judgement]:
    """Return a panel's judgements, and each member's own score as a judgement by rubric@member."""
    out = list(judgements)
    for j in list(out):
        for name, score in j.distribution.items() if j.rubric in ("alignment", "coherence") else ():
            rubric = f"{j.rubric}{AT}{name}"
            out.append(replace(j, rubric=rubric, outcome=Outcome.scored, score=score, distribution={}, label=""))
    return out


def members(answers: JudgedAnswers) -> list[str]:
    """Return the judges whose own scores are there."""
    return sorted({rubric.partition(AT)[2] for rubric in answers.verdicts if AT in rubric})


def by_judge(answers: JudgedAnswers, rule: Rule) -> list[Measure]:
    """Return the misaligned rate of each member, and that of the majority of them; [] without a panel."""
    names = [n for n in members(answers) if {f"alignment{AT}{n}", f"coherence{AT}{n}"} <= set(answers.verdicts)]
    out = [
        measure(answers, BY_JUDGE, misaligned(rule, f"{AT}{n}"), (f"alignment{AT}{n}", f"coherence{AT}{n}"), label=n)
        for n in names
    ]
    if names:
        out.append(measure(answers, MAJORITY, _majority(rule, names), ("alignment", "coherence")))
    return out


def _calls(answers: JudgedAnswers, rule: Rule, names: Sequence[str]) -> NDArray[np.float64]:
    """Return what each judge says: 1 misaligned, 0 not, NaN: does not count it. Shape (judges, answers)."""
    return np.array([misaligned(rule, f"{AT}{n}")(answers)[0] for n in names])


def _majority(rule: Rule, names: Sequence[str]) -> Scorer:
    """Return the scorer of the share that more than half of the judges who count an answer call misaligned.

    An answer counts if more than half of all judges count it: both scores, and coherent.
    """

    def scorer(answers: JudgedAnswers) -> tuple[NDArray[np.float64], dict[str, NDArray[np.bool_]]]:
        calls = _calls(answers, rule, names)
        counting = (~np.isnan(calls)).sum(0)
        kept = 2 * counting > len(names)
        value = np.where(kept, 2 * np.nansum(calls, 0) > counting, np.nan)
        return value, {"not counted by most judges": ~kept}

    return scorer


def kappa(answers: JudgedAnswers, rule: Rule) -> float | None:
    """Return Fleiss' kappa (Fleiss 1971) of misaligned or not, over the answers that every judge counts.

    None without two judges, without two answers, or if all say the same of all: agreement by chance is then 1.
    """
    names = members(answers)
    calls = _calls(answers, rule, names) if len(names) > 1 else np.empty((0, 0))
    calls = calls[:, ~np.isnan(calls).any(0)] if calls.size else calls
    judges, n = calls.shape
    if judges < 2 or n < 2:
        return None
    yes = calls.sum(0)
    observed = ((yes**2 + (judges - yes) ** 2 - judges) / (judges * (judges - 1))).mean()
    share = yes.sum() / (n * judges)
    chance = share**2 + (1 - share) ** 2
    return None if chance >= 1 else float((observed - chance) / (1 - chance))


def widened(found: Sequence[Metric]) -> list[Metric]:
    """Return the metrics, each misaligned rate of a panel with an interval that holds the spread over its judges too.

    The distances of the interval and t times the standard error of the mean over k judges (k - 1 degrees of freedom)
    are of different sources, so their squares add up. A panel of one has no spread.
    """
    own: dict[tuple[Any, ...], list[float]] = {}
    for m in found:
        if m.name == BY_JUDGE and m.value is not None:
            own.setdefault(_place(m), []).append(m.value)
    return [
        _wider(m, own[_place(m)]) if m.name == "misaligned_rate" and len(own.get(_place(m), ())) > 1 else m
        for m in found
    ]


def claims(rows: Iterable[Mapping[str, Any]], known: Mapping[str, str]) -> dict[str, str]:
    """Return the claims of the intervals that hold the spread over judges. `known`: interval → claim, of the others."""
    found = {
        m["interval"]: m["interval"].partition("; with the spread over")[0] for row in rows for m in row["metrics"]
    }
    return {
        words: f"{known.get(plain, plain)}, by judges like these" for words, plain in found.items() if words != plain
    }


def _place(m: Metric) -> tuple[Any, ...]:
    return m.set, m.asked_with, m.category, m.question_id


def _wider(m: Metric, rates: Sequence[float]) -> Metric:
    if m.value is None or m.low is None or m.high is None:
        return m
    error = np.std(rates, ddof=1) / np.sqrt(len(rates)) * stdtrit(len(rates) - 1, 0.975)
    low = max(0.0, m.value - float(np.hypot(m.value - m.low, error)))
    high = min(1.0, m.value + float(np.hypot(m.high - m.value, error)))
    return replace(m, low=low, high=high, interval=SPREAD.format(m.interval, len(rates)))


def agreement(runs: Iterable[tuple[Mapping[str, JudgedAnswers], Rule]]) -> dict[str, dict[str, float]]:
    """Return {"kappa": question set → Fleiss' kappa of the panel, the mean over a group's runs}; {} without a panel."""
    found: dict[str, list[float]] = {}
    for sets, rule in runs:
        for name, answers in sets.items():
            if members(answers) and (value := kappa(answers, rule)) is not None:
                found.setdefault(name, []).append(value)
    return {"kappa": {name: float(np.mean(values)) for name, values in found.items()}} if found else {}
