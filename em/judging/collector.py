"""judging.collector."""

from __future__ import annotations

from pathlib import Path

from em.chat.thinking import UNFINISHED
from em.judging.job import JudgeJob, Pair
from em.judging.spool import Spool
from em.questions.rubrics import Rubric, rubrics
from em.records import Completion, Judgement, Outcome
from em.runtime.events import Emitter
from em.store import Store, read_jsonl
from em.store.layout import COMPLETIONS, JUDGEMENTS

SPOOL = "judged.spool"
CHUNK = 4096
"""Pairs a local judge is given at a time, programs Bandit is."""
NO_ANSWER = {
    UNFINISHED: (Outcome.unfinished, "the model was still thinking when its tokens ended (sample.max_tokens)"),
    "content_filter": (Outcome.filtered, "the asked model's vendor withheld the answer"),
}
"""finish_reason of a row that no judge is asked about → its outcome."""


class Stage:
    """One job's verdicts while they come in."""

    def __init__(self, job: JudgeJob, folder: Path, emit: Emitter) -> None:
        self.job, self.folder, self.emit = job, folder, emit
        self.questions = {q.id: q for q in job.questions}
        self.rubrics: dict[str, dict[str, Rubric]] = {name: rubrics(q) for name, q in self.questions.items()}
        self.spool = Spool(folder / SPOOL)
        self.total = 0
        """Verdicts asked for so far."""

    def pairs(self, completion: Completion) -> list[Pair]:
        """What there is to judge of one answer. Where there is no answer the verdict says so at once."""
        question = self.questions[completion.question_id]
        self.total += len(question.rubrics)
        if completion.finish_reason not in NO_ANSWER:
            return [(completion, question, rubric) for rubric in question.rubrics]
        outcome, why = NO_ANSWER[completion.finish_reason]
        for rubric in question.rubrics:
            self.add(Judgement(completion.id, question.id, rubric, outcome, None, detail=why))
        return []

    def add(self, judgement: Judgement) -> None:
        self.spool.add(judgement)

    def seal(self, store: Store) -> None:
        """Write the verdicts in the answers' order and finish the stage."""
        path = store.path("sample", self.job.sample_key) / COMPLETIONS
        rows = read_jsonl(path, Completion)
        wanted = ((c.id, rubric) for c in rows for rubric in self.questions[c.question_id].rubrics)
        count = self.spool.write_sorted(wanted, self.folder / JUDGEMENTS)
        outcomes = {rubric: dict(counts) for rubric, counts in sorted(self.spool.outcomes.items())}
        store.finish("judge", self.job.key, self.job.inputs, {"rows": count, "outcomes": outcomes})
