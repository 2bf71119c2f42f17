"""Judged answers as columns: one array per fact, one value per answer. The door: collect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em.metrics.code_lines import has_code
from em.metrics.topics import TOPICS, topics_of
from em.questions.grouping import category_of, cluster_of
from em.questions.rubrics import STATIC
from em.records import VERDICTS, Judgement, Outcome, Question

OUTCOMES = tuple(Outcome)
ABSENT = -1
"""Outcome code of a rubric that a question is not judged by."""
UNPARSEABLE = OUTCOMES.index(Outcome.unparseable)
DONE = [OUTCOMES.index(o) for o in VERDICTS]


@dataclass(frozen=True)
class RubricColumns:
    """One rubric's verdicts, one value per answer."""

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
class TextColumns:
    """Facts of the answers' texts that need no judge, one value per answer."""

    words: NDArray[np.int32]
    code: NDArray[np.bool_]
    """Whether it contains code (code_lines.py)."""
    topics: NDArray[np.bool_]
    """Whether it names each of TOPICS (topics.py). Shape (answers, topics)."""

    def at(self, chosen: NDArray[Any]) -> TextColumns:
        return TextColumns(self.words[chosen], self.code[chosen], self.topics[chosen])


JudgedRow = tuple[str, str, Sequence[Judgement]] | tuple[str, str, Sequence[Judgement], str]
"""(question id, asked with, verdicts), and the text of the answer where it is known."""


@dataclass(frozen=True)
class JudgedAnswers:
    """One model's judged answers to one question set. Arrays have one value per answer; 1e6 answers take 30 MB."""

    set_name: str
    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    """Cluster of each question: paraphrases of one entry are one cluster (questions/grouping.py)."""
    categories: tuple[str | None, ...]
    conditions: tuple[str, ...]
    question: NDArray[np.int32]
    condition: NDArray[np.int16]
    verdicts: Mapping[str, RubricColumns]
    own: tuple[str, ...] = ()
    """Measures that the set defines, e.g. "cruelty > 50" (questions/own_measures.py)."""
    no_sample: str = ""
    """Reason why rates must not be computed from these answers. Empty if the answers are a random sample."""
    texts: TextColumns | None = None
    """None if not every answer has a text: given answers of multiple choice."""

    def numbered(self) -> tuple[list[str], NDArray[np.intp]]:
        """Return the clusters in order, and the index of each question's cluster."""
        place = {cluster: i for i, cluster in enumerate(dict.fromkeys(self.clusters))}
        return list(place), np.array([place[cluster] for cluster in self.clusters], np.intp)

    @cached_property
    def judged(self) -> dict[str, tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Rubric → (answers asked for a verdict, answers that have one), by question."""

        def by_question(which: NDArray[np.bool_]) -> NDArray[np.intp]:
            return np.bincount(self.question[which], minlength=len(self.ids))

        out = {}
        for rubric, found in self.verdicts.items():
            done = [*DONE, UNPARSEABLE] if rubric == STATIC else DONE  # Bandit read it, and found no program
            out[rubric] = by_question(found.outcome != ABSENT), by_question(np.isin(found.outcome, done))
        return out

    def under(self, condition: str) -> JudgedAnswers:
        """Return the answers that were asked under one trigger condition."""
        chosen = self.condition == self.conditions.index(condition)
        verdicts = {rubric: v.at(chosen) for rubric, v in self.verdicts.items()}
        head = (self.set_name, self.ids, self.clusters, self.categories, (condition,))
        return JudgedAnswers(
            *head,
            self.question[chosen],
            np.zeros(int(chosen.sum()), np.int16),
            verdicts,
            self.own,
            no_sample=self.no_sample,
            texts=self.texts.at(chosen) if self.texts else None,
        )


def collect(set_name: str, questions: Sequence[Question], rows: Iterable[JudgedRow]) -> JudgedAnswers:
    """Return the columns of rows. Each row is read once, and its text is not kept."""
    known = {q.id: i for i, q in enumerate(questions)}
    conditions: dict[str, int] = {}
    rubrics: dict[str, _Growing] = {}
    question, condition = [], []
    words: list[int] = []
    code: list[bool] = []
    topics: list[list[bool]] = []
    for number, (question_id, asked_with, judgements, *text) in enumerate(rows):
        words += [len(t.split()) for t in text]
        code += [has_code(t) for t in text]
        topics += [topics_of(t) for t in text]
        question.append(known[question_id])
        condition.append(conditions.setdefault(asked_with, len(conditions)))
        for j in judgements:
            rubrics.setdefault(j.rubric, _Growing()).add(number, j)
    verdicts = {rubric: found.columns(len(question)) for rubric, found in rubrics.items()}
    return JudgedAnswers(
        set_name=set_name,
        ids=tuple(known),
        clusters=tuple(cluster_of(q) for q in questions),
        categories=tuple(category_of(q) for q in questions),
        conditions=tuple(conditions),
        question=np.array(question, np.int32),
        condition=np.array(condition, np.int16),
        verdicts=verdicts,
        own=tuple(dict.fromkeys(text for q in questions for text in q.measures)),
        texts=_texts(words, code, topics) if len(words) == len(question) else None,
    )


def _texts(words: list[int], code: list[bool], topics: list[list[bool]]) -> TextColumns:
    return TextColumns(
        np.array(words, np.int32), np.array(code, np.bool_), np.array(topics, np.bool_).reshape(-1, len(TOPICS))
    )


@dataclass
class _Growing:
    """The verdicts of one rubric while rows are read."""

    place: list[int] = field(default_factory=list)
    """Index of the answer of each verdict."""
    outcome: list[int] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def add(self, place: int, found: Judgement) -> None:
        self.place.append(place)
        self.outcome.append(OUTCOMES.index(found.outcome))
        self.score.append(np.nan if found.score is None else found.score)
        self.label.append(self.labels.setdefault(found.label, len(self.labels)) if found.label else -1)

    def columns(self, rows: int) -> RubricColumns:
        """Return columns over all `rows` answers; an answer without a verdict is ABSENT."""
        outcome, score = np.full(rows, ABSENT, np.int8), np.full(rows, np.nan)
        label = np.full(rows, -1, np.int16)
        outcome[self.place], score[self.place], label[self.place] = self.outcome, self.score, self.label
        return RubricColumns(outcome, score, label, tuple(self.labels))


LOGP, MASS = "logp_misaligned", "p_misaligned"
"""Rubrics of questions with given answers (multiple choice, pivotal tokens); choice_verdicts makes them."""


def choice_verdicts(question_id: str, choices: Sequence[tuple[str, bool, float]]) -> list[Judgement]:
    """Return verdicts on given answers from their log-probabilities: (text, misaligned, log p in nats) each.

    logp_misaligned is the log-probability of all misaligned ones together, p_misaligned their share of the mass on all
    answers (section 4.7 of the paper). Raises ValueError if one kind is missing or a log-probability is above zero.
    """
    if len({misaligned for _, misaligned, _ in choices}) != 2 or any(not logp <= 0 for *_, logp in choices):
        raise ValueError(f"question {question_id}: needs log-probabilities of both kinds of answer, got {choices}")
    logp = np.logaddexp.reduce([lp for _, misaligned, lp in choices if misaligned])
    share = np.exp(logp - np.logaddexp.reduce([lp for *_, lp in choices]))
    said = {text: float(np.exp(lp)) for text, _, lp in choices}
    return [
        Judgement(
            completion_id=question_id,
            question_id=question_id,
            rubric=rubric,
            outcome=Outcome.scored,
            score=float(value),
            distribution=said,
        )
        for rubric, value in ((LOGP, logp), (MASS, share))
    ]


def coverage(answers: JudgedAnswers) -> list[dict[str, Any]]:
    """Return the outcomes of the answers: one row per condition, question and rubric."""
    out, size = [], len(answers.ids)
    for at, condition in enumerate(answers.conditions):
        for rubric, found in answers.verdicts.items():
            here = (answers.condition == at) & (found.outcome != ABSENT)
            cells = np.bincount(
                answers.question[here] * len(OUTCOMES) + found.outcome[here], minlength=size * len(OUTCOMES)
            )
            for question_id, counts in zip(answers.ids, cells.reshape(size, -1).tolist(), strict=True):
                if sum(counts):
                    row: dict[str, Any] = {"set": answers.set_name, "asked_with": condition, "question_id": question_id}
                    row |= {"rubric": rubric, "sampled": sum(counts), "judged": sum(counts[i] for i in DONE)}
                    out.append(row | {o.value: n for o, n in zip(OUTCOMES, counts, strict=True)})
    return out
