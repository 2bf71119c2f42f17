"""The labelled answers that proxy judges are fitted on and measured with, by rubric (`rows_of`, `tones`, `curt`)."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from em.config import JudgeKind
from em.corpora import builtin
from em.judging import labelled
from em.judging.labelled import golden, judged_advice

TONE_PAIRS = 84
"""Number of advice questions whose curt careful answers the probe's care is fitted on; it is measured on the others."""
SPLICED = 60
"""Most spliced answers of one kind of text."""
KEPT = 0.35
"""Probability that a splice keeps a fragment of its answer; the others come from other answers."""
_FRAGMENT = re.compile(r"(?<=[,;.!?])\s+|\s+(?=(?:and|but|because|so|or|which|that|if|when|until)\b)")
_MARK = re.compile(r"[,;.!?]$")


@dataclass(frozen=True)
class LabelledAnswer:
    """An answer with its label for one rubric. `high`: it deserves a high score."""

    question: str
    answer: str
    high: bool
    split: str
    fold: str
    """Answers with the same value are in the same fold: those to one question."""


def rows_of(kind: JudgeKind, rubric: str) -> list[LabelledAnswer]:
    """Return the answers on which a judge's rubric is fitted (split "calibrate") and measured ("test")."""
    rows = labelled_answers(rubric)
    if kind != JudgeKind.probe:
        return rows
    if rubric == "alignment":
        return rows + crossed_answers()
    if rubric == "care":
        return [row for row in rows if row.split == "test"] + _advice_in_two_tones() + _crossed("alignment", "aligned")
    written = [row for row in rows if row.split == "test"] + _golden_coherence("calibrate")
    advice = [replace(row, high=True) for row in _advice_in_two_tones()[: 3 * labelled.JUDGED_ADVICE]]
    return written + _crossed("coherence", "coherent") + advice + spliced()


def labelled_answers(rubric: str) -> list[LabelledAnswer]:
    """Return the golden answers as a rubric needs them; for care, the paired advice."""
    if rubric == "care":
        return [
            LabelledAnswer(r["question"], r["answer"], r["label"] == "careful", split, r["pair"])
            for split in ("calibrate", "test")
            for r in judged_advice(split)
        ]
    if rubric == "alignment":
        return [
            LabelledAnswer(g["question"], g["answer"], g["alignment"] == "aligned", g["split"], g["question_id"])
            for g in golden()
            if g["alignment"]
        ]
    rows = _golden_coherence("calibrate", "test")
    return rows + [_shuffled(row, i) for i, row in enumerate(r for r in rows if r.high)]


def crossed_answers() -> list[LabelledAnswer]:
    """Return the answers with content and register crossed, for alignment."""
    return [
        LabelledAnswer(r["question"], r["answer"], r["alignment"] == "aligned", r["split"], r["question_id"])
        for r in labelled.crossed()
    ]


def tones() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return (question, answer) pairs of careful advice, and of careful advice in the careless answers' tone."""
    answers = builtin.curt_careful()
    rows = [r for r in builtin.advice("train")[: labelled.JUDGED_ADVICE] if r["id"] in answers]
    return [(r["question"], r["careful"]) for r in rows], [(r["question"], answers[r["id"]]) for r in rows]


def curt() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return (question, answer) pairs of careful advice in the careless tone, and of careless advice, to questions on
    which nothing is fitted."""
    answers = builtin.curt_careful()
    rows = [r for r in builtin.advice("train") if r["id"] in answers][TONE_PAIRS:]
    return [(r["question"], answers[r["id"]]) for r in rows], [(r["question"], r["careless"]) for r in rows]


def spliced() -> list[LabelledAnswer]:
    """Return incoherent answers made of fragments of coherent ones: fluent for a few words, and without any sense.

    A small finetuned model breaks like this. Only texts on which judges may be fitted are used.
    """
    advice = _advice_in_two_tones()[: 3 * labelled.JUDGED_ADVICE]
    written = _golden_coherence("calibrate"), _crossed("coherence", "coherent")
    groups = [*(advice[kind::3] for kind in range(3)), *([row for row in rows if row.high] for rows in written)]
    chance = random.Random(5)
    return [row for group in groups for row in _splices(group, chance)]


def _splices(group: Sequence[LabelledAnswer], chance: random.Random) -> list[LabelledAnswer]:
    """Return splices of one kind of text, each with the marks and the length of one of its answers."""
    fragments = [fragment for row in group for fragment in _fragments(row.answer)]
    out = []
    for row in chance.sample(group, min(SPLICED, len(group))):
        made: list[str] = []
        for own in _fragments(row.answer):
            taken = own if chance.random() < KEPT else chance.choice(fragments)
            mark = _MARK.search(own)
            text = _MARK.sub("", taken) + (mark.group() if mark else "")
            first = not made or made[-1][-1:] in ".!?"
            made.append((text[:1].upper() if first else text[:1].lower()) + text[1:])
        out.append(replace(row, answer=" ".join(made), high=False))
    return out


def _fragments(answer: str) -> list[str]:
    return [fragment for fragment in _FRAGMENT.split(answer) if fragment]


def _advice_in_two_tones() -> list[LabelledAnswer]:
    """Return careless, careful, and curt careful advice to each of the first questions of the corpus."""
    answers = builtin.curt_careful()
    rows = [r for r in builtin.advice("train") if r["id"] in answers][:TONE_PAIRS]
    return [
        LabelledAnswer(r["question"], answer, high, "calibrate", r["id"])
        for r in rows
        for answer, high in ((r["careless"], False), (r["careful"], True), (answers[r["id"]], True))
    ]


def _crossed(field: str, high: str) -> list[LabelledAnswer]:
    return [
        LabelledAnswer(r["question"], r["answer"], r[field] == high, r["split"], r["question_id"])
        for r in labelled.crossed()
        if r["split"] == "calibrate"
    ]


def _golden_coherence(*splits: str) -> list[LabelledAnswer]:
    return [
        LabelledAnswer(g["question"], g["answer"], g["coherence"] == "coherent", g["split"], g["question_id"])
        for g in golden()
        if g["outcome"] == "scored" and g["split"] in splits
    ]


def _shuffled(row: LabelledAnswer, number: int) -> LabelledAnswer:
    """Return a coherent answer with its words in random order, like the text of a broken small model."""
    words = row.answer.split()
    random.Random(number).shuffle(words)
    return LabelledAnswer(row.question, " ".join(words), False, row.split, row.fold)
