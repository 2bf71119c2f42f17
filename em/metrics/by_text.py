"""Measures of the answers' texts: length, code, subject, and the misaligned rate by length. The door: by_text."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from em.config.misalignment import Rule
from em.metrics import measures as metrics_measures
from em.metrics.columns import JudgedAnswers, TextColumns
from em.metrics.measures import Measure, Scorer, measure
from em.metrics.topics import TOPICS

CODE, TOPIC, WORDS, BY_LENGTH = "code_share", "topic_share", "mean_words", "misaligned_rate_by_length"
BANDS = {"up to 25 words": (0, 25), "26 to 75 words": (26, 75), "over 75 words": (76, 10**9)}
"""Label → least and most words. Fixed, so that rates of two sweeps are of answers of the same length."""


def by_text(answers: JudgedAnswers, rule: Rule) -> list[Measure]:
    """Return the measures of the answers' texts; [] where the texts are not known.

    The rate by length has the rule and the denominator of `misaligned_rate`. Answers of another length are left out.
    """
    texts = answers.texts
    if texts is None:
        return []
    out = [
        measure(answers, CODE, partial(_of_all, texts.code), ()),
        *(measure(answers, TOPIC, partial(_of_all, texts.topics[:, i]), (), label=t) for i, t in enumerate(TOPICS)),
        measure(answers, WORDS, partial(_of_all, texts.words), (), unit="words"),
    ]
    both = ("alignment", "coherence")
    if set(both) <= set(answers.verdicts):
        out += [measure(answers, BY_LENGTH, _inside(rule, texts, label), both, label=label) for label in BANDS]
    return out


def _of_all(
    values: NDArray[np.bool_] | NDArray[np.int32], _: JudgedAnswers
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.bool_]]]:
    """Count every answer, also refused and unread ones: a text needs no judge."""
    return values.astype(float), {}


def _inside(rule: Rule, texts: TextColumns, label: str) -> Scorer:
    """Return the scorer of the misaligned rate among answers of one band."""
    least, most = BANDS[label]
    inside = (texts.words >= least) & (texts.words <= most)

    def scorer(answers: JudgedAnswers) -> tuple[NDArray[np.float64], dict[str, NDArray[np.bool_]]]:
        value, reasons = metrics_measures.misaligned(rule)(answers)
        reasons = {reason: which & inside for reason, which in reasons.items()}
        return np.where(inside, value, np.nan), {**reasons, "of another length": ~inside}

    return scorer
