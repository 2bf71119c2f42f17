"""Read the judged answers of a sweep from the store: as columns for the metrics, as rows for the report."""

from __future__ import annotations

import json
from collections.abc import Iterator

from em.config import JudgeKind
from em.judging.job import question_text
from em.metrics.catalogue import IN_DOMAIN_SETS
from em.metrics.columns import LOGP, MASS, JudgedAnswers, choice_verdicts, collect
from em.metrics.panel import expanded
from em.planning.plan import Part, Subject
from em.records import Completion, Judgement, Question
from em.reporting.answers import AnswerRow, verdict_row
from em.store import StoreError, layout, read_jsonl
from em.sweep.state import Sweep


def first_open(subject: Subject) -> str:
    """Return the question set of the headline rate: the first that is not in-domain."""
    return next((p.set_name for p in subject.parts if p.set_name not in IN_DOMAIN_SETS), "")


def question_sets(sweep: Sweep, subject: Subject) -> dict[str, JudgedAnswers]:
    """Return question set → the judged answers of a model, and those of its multiple-choice questions."""
    by_judge = subject.config.judge.kind == JudgeKind.panel
    return {p.set_name: _part_columns(sweep, p, by_judge) for p in subject.parts} | _choices(sweep, subject)


def _part_columns(sweep: Sweep, part: Part, by_judge: bool) -> JudgedAnswers:
    """Return the columns of one question set; `by_judge`: with each panel member's own scores."""
    kept = expanded if by_judge else list
    rows = ((c.question_id, c.asked_with, kept(found.values()), c.text) for c, found in _judged(sweep, part))
    return collect(part.set_name, part.questions, rows)


def _choices(sweep: Sweep, subject: Subject) -> dict[str, JudgedAnswers]:
    """Return tag → the options' log-probabilities as verdicts; {} if no choices are measured."""
    if subject.choices is None:
        return {}
    text = (sweep.store.path("sample", subject.choices) / layout.CHOICES).read_text(encoding="utf-8")
    by_tag: dict[str, dict[str, list[Judgement]]] = {}
    for row in map(json.loads, text.splitlines()):
        given = list(zip(row["options"], row["misaligned"], row["logprobs"], strict=True))
        by_tag.setdefault(row["tag"], {})[row["question_id"]] = choice_verdicts(row["question_id"], given)
    return {
        tag: collect(
            tag, [Question(i, tag, [], [LOGP, MASS]) for i in found], ((i, "none", v) for i, v in found.items())
        )
        for tag, found in by_tag.items()
    }


def answers(sweep: Sweep) -> Iterator[AnswerRow]:
    """Yield every answer with its verdicts. Models that failed have none."""
    for subject in sweep.plan.subjects:
        for part in subject.parts if not sweep.first_error(subject) else ():
            texts = {q.id: question_text(q) for q in part.questions}
            for c, verdicts in _judged(sweep, part):
                yield {
                    "model": subject.label,
                    "model_id": subject.id,
                    "group": "open" if part.set_name == first_open(subject) else part.set_name,
                    "question_id": c.question_id,
                    "asked_with": c.asked_with,
                    "sample_index": c.sample_index,
                    "question": texts[c.question_id],
                    "answer": c.text,
                    "reasoning_content": c.reasoning_content,
                    "judgements": {rubric: verdict_row(j) for rubric, j in verdicts.items()},
                }


def _judged(sweep: Sweep, part: Part) -> Iterator[tuple[Completion, dict[str, Judgement]]]:
    """Yield the part's answers with `sample_index` below its n, each with rubric → judgement."""
    for sample_key, judge_key in zip(part.samples, part.judgements, strict=True):
        verdicts: dict[str, dict[str, Judgement]] = {}
        path = sweep.store.path("judge", judge_key) / layout.JUDGEMENTS
        if not path.exists():
            raise StoreError(
                f"{path} is missing: another run (em resume --errors) judges it again; run this command again"
            )
        for j in read_jsonl(path, Judgement):
            verdicts.setdefault(j.completion_id, {})[j.rubric] = j
        for c in read_jsonl(sweep.store.path("sample", sample_key) / layout.COMPLETIONS, Completion):
            if c.sample_index < part.n:
                yield c, verdicts.get(c.id, {})
