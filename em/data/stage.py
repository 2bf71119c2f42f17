"""The data stage: build datasets. `build` is the sweep's door; `work` a worker's, for rows chosen by scores."""

from __future__ import annotations

from em.data import interleave, second_phase
from em.data.job import DataJob
from em.records import Example, RowScore
from em.runtime.events import Emitter
from em.store import Store, layout, read_jsonl, write_jsonl
from em.store.jsonl import Row


def work(store: Store, jobs: list[DataJob], emit: Emitter) -> None:
    """Build every dataset of a batch."""
    for job in jobs:
        with emit.job(job.key):
            build(store, job)


def build(store: Store, job: DataJob) -> bool:
    """Build one dataset. Return False if another process has built it. Raises what second_phase.build does."""
    with store.claim("data", job.key) as folder:
        if folder is None:
            return False
        scores = None
        if job.scores_key:
            scores = list(read_jsonl(store.path(layout.SCORED, job.scores_key) / layout.SCORES, RowScore))
        rows = second_phase.build(job, scores)
        write_jsonl(folder / layout.DATASET, rows)
        store.finish("data", job.key, job.inputs, {**second_phase.facts(job, rows), **_chosen(rows, scores)})
        return True


def _chosen(rows: list[Example], scores: list[RowScore] | None) -> Row:
    """Return what the manifest says about rows that were chosen by scores: their smallest gap, rows without a score."""
    if scores is None:
        return {}
    gaps = {f"{interleave.PREFIX}{score.id}": score.gap for score in scores}
    least = min(gap for row in rows if (gap := gaps.get(row.id)) is not None)
    return {"least_gap": least, "candidates": len(scores), "without_score": sum(s.gap is None for s in scores)}
