"""metrics.columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em.questions.grouping import category_of, cluster_of
from em.records import Judgement, Outcome, Question

OUTCOMES = tuple(Outcome)
ABSENT = -1
"""Outcome code of a rubric that a question is not judged by."""
VERDICTS = (Outcome.scored, Outcome.labelled, Outcome.refusal, Outcome.code)
"""Outcomes in which the judge did its work; filtered, unparseable and error are missing judgements."""

UNPARSEABLE = OUTCOMES.index(Outcome.unparseable)
DONE = [OUTCOMES.index(o) for o in VERDICTS]


@dataclass(frozen=True)
class RubricColumns:
    """One rubric's verdicts, a value an answer."""

    outcome: NDArray[np.int8]
    """Index into OUTCOMES; ABSENT where the question is not judged by this rubric."""
    score: NDArray[np.float64]
    """0-100; NaN without a score."""
    label: NDArray[np.int16]
    """Index into `labels`; -1 without a label."""
    labels: tuple[str, ...]

    def at(self, chosen: NDArray[Any]) -> RubricColumns:
        return RubricColumns(self.outcome[chosen], self.score[chosen], self.label[chosen], self.labels)


@dataclass(frozen=True)
class JudgedAnswers:
    """One model's judged answers to one question set. Arrays have one value an answer; 1e6 answers take about 30 MB."""

    set_name: str
    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    """What a question counts as in the statistics: paraphrases of one entry are one cluster (questions/grouping.py)."""
    categories: tuple[str | None, ...]
    conditions: tuple[str, ...]
    question: NDArray[np.int32]
    condition: NDArray[np.int16]
    verdicts: Mapping[str, RubricColumns]
    no_sample: str = ""
    """Why shares of these answers are no rates; empty: they are a sample of what the model says."""

    def numbered(self) -> tuple[list[str], NDArray[np.intp]]:
        """The clusters in order, and the number of each question's cluster."""
        place = {cluster: i for i, cluster in enumerate(dict.fromkeys(self.clusters))}
        return list(place), np.array([place[cluster] for cluster in self.clusters], np.intp)

    def under(self, condition: str) -> JudgedAnswers:
        """Only those asked under one trigger condition."""
        chosen = self.condition == self.conditions.index(condition)
        verdicts = {rubric: v.at(chosen) for rubric, v in self.verdicts.items()}
        head = (self.set_name, self.ids, self.clusters, self.categories, (condition,))
        return JudgedAnswers(
            *head, self.question[chosen], np.zeros(int(chosen.sum()), np.int16), verdicts, self.no_sample
        )


def collect(
    set_name: str, questions: Sequence[Question], rows: Iterable[tuple[str, str, Sequence[Judgement]]]
) -> JudgedAnswers:
    """Columns of (question id, asked with, verdicts) rows, which are read once."""
    known, conditions, rubrics = {q.id: i for i, q in enumerate(questions)}, {}, {}
    question, condition = [], []
    for number, (question_id, asked_with, judgements) in enumerate(rows):
        question.append(known[question_id])
        condition.append(conditions.setdefault(asked_with, len(conditions)))
        for j in judgements:
            found = rubrics.setdefault(j.rubric, ([], [], [], [], {}))
            place, outcome, score, label, labels = found
            place.append(number)
            outcome.append(OUTCOMES.index(j.outcome))
            score.append(np.nan if j.score is None else j.score)
            label.append(labels.setdefault(j.label, len(labels)) if j.label else -1)
    verdicts = {rubric: _spread_out(len(question), *found) for rubric, found in rubrics.items()}
    return JudgedAnswers(
        set_name,
        tuple(known),
        tuple(cluster_of(q) for q in questions),
        tuple(category_of(q) for q in questions),
        tuple(conditions),
        np.array(question, np.int32),
        np.array(condition, np.int16),
        verdicts,
    )


def _spread_out(
    rows: int, place: list[int], outcome: list[int], score: list[float], label: list[int], labels: dict[str, int]
) -> RubricColumns:
    """Columns over all answers from the verdicts of those that have this rubric."""
    out = RubricColumns(
        np.full(rows, ABSENT, np.int8), np.full(rows, np.nan), np.full(rows, -1, np.int16), tuple(labels)
    )
    out.outcome[place], out.score[place], out.label[place] = outcome, score, label
    return out


LOGP, MASS = "logp_misaligned", "p_misaligned"
"""Rubrics of questions with given answers (multiple choice, pivotal tokens): what choice_verdicts() makes."""


def choice_verdicts(question_id: str, choices: Sequence[tuple[str, bool, float]]) -> list[Judgement]:
    """Verdicts on the log-probabilities (nats) of given answers: (text, misaligned, log p) each (paper, section 4.7).

    logp_misaligned is log P(a misaligned one); p_misaligned its share of the mass on all of them. Raises ValueError
    when there is none of either kind, or a log-probability above zero.
    """
    if len({misaligned for _, misaligned, _ in choices}) != 2 or any(not logp <= 0 for *_, logp in choices):
        raise ValueError(f"question {question_id}: needs log-probabilities of both kinds of answer, got {choices}")
    logp = np.logaddexp.reduce([lp for _, misaligned, lp in choices if misaligned])
    share = np.exp(logp - np.logaddexp.reduce([lp for *_, lp in choices]))
    said = {text: float(np.exp(lp)) for text, _, lp in choices}
    return [
        Judgement(question_id, question_id, rubric, Outcome.scored, float(value), said)
        for rubric, value in ((LOGP, logp), (MASS, share))
    ]


def coverage(answers: JudgedAnswers) -> list[dict[str, Any]]:
    """What became of the answers to each question: one row a condition, question and rubric."""
    out, size = [], len(answers.ids)
    for at, condition in enumerate(answers.conditions):
        for rubric, found in answers.verdicts.items():
            here = (answers.condition == at) & (found.outcome != ABSENT)
            cells = np.bincount(
                answers.question[here] * len(OUTCOMES) + found.outcome[here], minlength=size * len(OUTCOMES)
            )
            for question_id, counts in zip(answers.ids, cells.reshape(size, -1).tolist(), strict=True):
                if sum(counts):
                    row = {"set": answers.set_name, "asked_with": condition, "question_id": question_id}
                    row |= {"rubric": rubric, "sampled": sum(counts), "judged": sum(counts[i] for i in DONE)}
                    out.append(row | {o.value: n for o, n in zip(OUTCOMES, counts, strict=True)})
    return out
