"""What a run takes from the store that was planned and made before it (planning/earlier.py)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from em.config.intervention import Where, with_planned
from em.directions.job import DIRECTION
from em.store import Store, layout
from em.training.job import TrainJob


def found(job: TrainJob, store: Store) -> TrainJob:
    """Return the job with the folder of its planned direction or adapter, on this machine."""
    chosen = job.intervention
    if job.direction_key:
        folder = str(store.path(DIRECTION, job.direction_key))
        return replace(job, intervention=replace(chosen, direction=with_planned(chosen.directions, folder)))
    if job.plain_key and chosen.facts.companion:
        folder = str(store.path("train", job.plain_key) / layout.ADAPTER)
        return replace(job, intervention=replace(chosen, adapter=with_planned([str(chosen.adapter)], folder)[0]))
    return job


def start(job: TrainJob, store: Store) -> Path | None:
    """Return the finished adapter that the run continues; None: it begins with a new one."""
    if not job.intervention.changes(Where.second_phase):
        return None
    return store.path("train", job.plain_key) / layout.ADAPTER


def beside(job: TrainJob, store: Store) -> Path | None:
    """Return the dataset that the run's method reads beside the training rows; None: it reads none."""
    return store.path("data", job.beside_key) / layout.DATASET if job.beside_key else None
