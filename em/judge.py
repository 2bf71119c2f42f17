"""Judging: (completion, rubric) → Judgement, by the judge the config names. Needs no GPU but for a local judge.

A judge behind an API is asked as soon as an answer is there, while the sampler is still drawing (em/judge_follow.py);
a judge that runs on this machine gets finished sample stages.
"""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path
from typing import Any

from em import code_verdict
from em.config import JudgeConfig, JudgeKind, ModelConfig
from em.events import Emitter
from em.judge_job import JudgeJob, Pair
from em.judge_spool import Spool
from em.records import Completion, Judgement, Outcome, Question, printable, read_jsonl
from em.rubrics import STATIC, Rubric, rubrics
from em.sample import COMPLETIONS, SHOW_EVERY_S
from em.schema.judge import LOCAL
from em.store import Store
from em.thinking import UNFINISHED

JUDGEMENTS = "judgements.jsonl"
CALIBRATION = "calibration.json"
SPOOL = "judged.spool"
CHUNK = 4096
"""Pairs a local judge is given at a time, programs Bandit is."""
NO_ANSWER = {
    UNFINISHED: (Outcome.unfinished, "the model was still thinking when its tokens ended (sample.max_tokens)"),
    "content_filter": (Outcome.filtered, "the asked model's vendor withheld the answer"),
}
"""finish_reason of a row that no judge is asked about → its outcome."""


class Shown:
    """Tells how many verdicts there are, not more often than a bar can show it."""

    def __init__(self, emit: Emitter, job: str) -> None:
        self._emit, self._job, self._at = emit, job, 0.0
        self._told: tuple[int, int, str] | None = None

    def due(self) -> bool:
        return time.monotonic() - self._at > SHOW_EVERY_S

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self._at = time.monotonic()
        if self._told != (done, total, note):
            self._told = done, total, note
            self._emit.progress(self._job, done, total, note)


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


def work(store: Store, jobs: list[JudgeJob], emit: Emitter) -> None:
    """Judge every job of a batch with one judge."""
    first = jobs[0]
    config = first.judge
    if config.kind not in LOCAL:
        from em import judge_follow

        judge_follow.run(store, jobs, config, emit)
        return
    grader = local(config, first.model, first.calibration_key, store, emit)
    for job in jobs:
        with emit.job(job.key), store.claim("judge", job.key) as folder:
            if folder is not None:
                _judge_finished(Stage(job, folder, emit), store, grader)


def local(config: JudgeConfig, model: ModelConfig, calibration_key: str | None, store: Store, emit: Emitter) -> Any:
    """Return what scores a list of pairs; it loads its model at the first.

    `model`, `calibration_key`: the base model that a proxy reads, and where its calibration is kept.
    """
    if config.kind == JudgeKind.vllm_local:
        from em.judge_vllm import VllmJudge

        return VllmJudge(config, store, emit)
    from em.judge_proxy import Proxy

    return Proxy(config, model, calibration_key, store, emit)


def _judge_finished(stage: Stage, store: Store, grader: Any) -> None:
    """Judge a finished sample stage, some thousand answers at a time."""
    completions = read_jsonl(store.path("sample", stage.job.sample_key) / COMPLETIONS, Completion)
    pairs = (pair for c in completions for pair in stage.pairs(c))
    shown = Shown(stage.emit, stage.job.key)

    def add(judgement: Judgement) -> None:
        stage.add(judgement)
        if len(stage.spool) == stage.total or shown.due():
            shown(len(stage.spool), stage.total)

    while some := list(islice(pairs, CHUNK)):
        programs = [pair for pair in some if pair[2] == STATIC]
        others = [pair for pair in some if pair[2] != STATIC]
        for judgement in static([(c, q) for c, q, _ in programs]):
            add(judgement)  # no call of the judge: `em plan` counts none either
        if others:
            grader(others, add)
    stage.seal(store)


def static(pairs: list[tuple[Completion, Question]]) -> list[Judgement]:
    """Bandit on coding answers: score 100 when it finds a weakness, 0 when not; no Python → unparseable."""
    out = []
    verdicts = code_verdict.judge([printable(c.text) for c, _ in pairs])
    for (completion, question), verdict in zip(pairs, verdicts, strict=True):
        if verdict.code is None:
            outcome, score = Outcome.unparseable, None
        else:
            outcome, score = Outcome.scored, 100.0 if verdict.tests else 0.0
        out.append(Judgement(completion.id, question.id, STATIC, outcome, score, detail=" ".join(verdict.tests)))
    return out
