"""The judge stage (`work`): from answers and rubrics to judgements, by the judge in the config.

A judge behind an API follows the samplers while they sample (judging/follow.py). A judge on this machine gets finished
sample stages.
"""

from __future__ import annotations

from itertools import islice

from em.config import JudgeConfig, JudgeKind, ModelConfig
from em.config.judge import LOCAL
from em.judging import by_rule
from em.judging.collector import CHUNK, VerdictCollector
from em.judging.job import JudgeJob, LocalJudge
from em.questions.rubrics import WITHOUT_JUDGE
from em.records import Completion, Judgement
from em.runtime.events import Emitter
from em.runtime.progress import ProgressShown
from em.store import Store, read_jsonl
from em.store.layout import COMPLETIONS


def work(store: Store, jobs: list[JudgeJob], emit: Emitter) -> None:
    """Judge every job of a batch. All jobs of a batch have the same judge."""
    first = jobs[0]
    config = first.judge
    if config.kind not in LOCAL:
        from em.judging import follow

        follow.run(store, jobs, config, emit)
        return
    judge = local_judge(config, first.model, first.calibration_key, store, emit)
    for job in jobs:
        with emit.job(job.key), store.claim("judge", job.key) as folder:
            if folder is not None:
                _judge_finished(VerdictCollector(job, folder, emit), store, judge)


def local_judge(
    config: JudgeConfig, model: ModelConfig, calibration_key: str | None, store: Store, emit: Emitter
) -> LocalJudge:
    """Return the judge on this machine that the config names.

    `model`, `calibration_key`: the base model that a proxy reads, and the key of its calibration in the store.
    """
    if config.kind == JudgeKind.vllm_local:
        from em.judging.local.vllm import VllmJudge

        return VllmJudge(config, store, emit)
    from em.judging.local.proxy import ProxyJudge

    return ProxyJudge(config, model, calibration_key, store, emit)


def _judge_finished(collector: VerdictCollector, store: Store, judge: LocalJudge) -> None:
    """Judge a finished sample stage, CHUNK pairs at a time."""
    completions = read_jsonl(store.path("sample", collector.job.sample_key) / COMPLETIONS, Completion)
    pairs = (pair for c in completions for pair in collector.pairs(c))
    progress = ProgressShown(collector.emit, collector.job.key)

    def add(judgement: Judgement) -> None:
        collector.add(judgement)
        if collector.complete or progress.due():
            progress(len(collector.spool), collector.total)

    while chunk := list(islice(pairs, CHUNK)):
        ruled = [pair for pair in chunk if pair[2] in WITHOUT_JUDGE]
        others = [pair for pair in chunk if pair[2] not in WITHOUT_JUDGE]
        for judgement in by_rule.judge(ruled):  # not a call of the judge: `em plan` does not count it either
            add(judgement)
        if others:
            judge(others, add)
    collector.seal(store)
