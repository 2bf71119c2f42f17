"""Judging: (completion, rubric) → Judgement, by the judge the config names. Needs no GPU but for a local judge.

A judge behind an API is asked as soon as an answer is there, while the sampler is still drawing (judging/follow.py);
a judge that runs on this machine gets finished sample stages.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from em.config import JudgeConfig, JudgeKind, ModelConfig
from em.config.judge import LOCAL
from em.judging.bandit import static
from em.judging.collector import CHUNK, Stage
from em.judging.job import JudgeJob
from em.questions.rubrics import STATIC
from em.records import Completion, Judgement
from em.runtime.events import Emitter
from em.runtime.progress import Shown
from em.store import Store, read_jsonl
from em.store.layout import COMPLETIONS


def work(store: Store, jobs: list[JudgeJob], emit: Emitter) -> None:
    """Judge every job of a batch with one judge."""
    first = jobs[0]
    config = first.judge
    if config.kind not in LOCAL:
        from em.judging import follow

        follow.run(store, jobs, config, emit)
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
        from em.judging.local.vllm import VllmJudge

        return VllmJudge(config, store, emit)
    from em.judging.local.proxy import Proxy

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
