"""Collect the verdicts of one judge job (`VerdictCollector`) and write them in the order of the answers."""

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
"""Pairs per call of a local judge or of Bandit."""
NO_ANSWER = {
    UNFINISHED: (Outcome.unfinished, "the model was still thinking when its tokens ended (sample.max_tokens)"),
    "content_filter": (Outcome.filtered, "the asked model's vendor withheld the answer"),
}
"""finish_reason of a row without an answer → outcome and detail. No judge sees such a row."""


class VerdictCollector:
    """The verdicts of one job while they come in. Call `pairs` per answer, `add` per verdict, `seal` at the end."""

    def __init__(self, job: JudgeJob, folder: Path, emit: Emitter) -> None:
        self.job, self.folder, self.emit = job, folder, emit
        self.questions = {q.id: q for q in job.questions}
        self.rubrics: dict[str, dict[str, Rubric]] = {name: rubrics(q) for name, q in self.questions.items()}
        self.spool = Spool(folder / SPOOL)
        self.total = 0
        """Verdicts expected for the answers so far."""

    @property
    def complete(self) -> bool:
        """Whether every answer so far has all its verdicts."""
        return len(self.spool) >= self.total

    def pairs(self, completion: Completion) -> list[Pair]:
        """Return what a judge must judge of one answer. A row without an answer gets its verdicts here instead."""
        question = self.questions[completion.question_id]
        self.total += len(question.rubrics)
        if completion.finish_reason not in NO_ANSWER:
            return [(completion, question, rubric) for rubric in question.rubrics]
        outcome, detail = NO_ANSWER[completion.finish_reason]
        for rubric in question.rubrics:
            self.add(Judgement(completion.id, question.id, rubric, outcome, None, detail=detail))
        return []

    def add(self, judgement: Judgement) -> None:
        self.spool.add(judgement)

    def seal(self, store: Store) -> None:
        """Write the verdicts in the order of the answers and finish the stage.

        Raises RuntimeError if a verdict is missing, double, or belongs to no answer.
        """
        path = store.path("sample", self.job.sample_key) / COMPLETIONS
        rows = read_jsonl(path, Completion)
        wanted = ((c.id, rubric) for c in rows for rubric in self.questions[c.question_id].rubrics)
        count = self.spool.write_sorted(wanted, self.folder / JUDGEMENTS)
        outcomes = {rubric: dict(counts) for rubric, counts in sorted(self.spool.outcomes.items())}
        store.finish("judge", self.job.key, self.job.inputs, {"rows": count, "outcomes": outcomes})
