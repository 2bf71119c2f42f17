"""Obtain and convert a base model once, in a process of its own (it needs torch; the sweep does not)."""

from __future__ import annotations

from dataclasses import dataclass

from em.models import paths
from em.runtime.events import Emitter
from em.store import Store


@dataclass(frozen=True, kw_only=True)
class PrepareJob:
    """A model to obtain."""

    key: str
    """Its model.path."""


def work(store: Store, jobs: list[PrepareJob], emit: Emitter) -> None:
    """Make every model of a batch loadable."""
    for job in jobs:
        with emit.job(job.key):
            paths.model_path(job.key)
