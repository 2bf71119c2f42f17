"""The stage that obtains and converts base models, in a process of its own: it needs torch, the sweep does not."""

from __future__ import annotations

from dataclasses import dataclass

from em.models import paths
from em.runtime.events import Emitter
from em.store import Store


@dataclass(frozen=True, kw_only=True)
class PrepareJob:
    """One model to obtain."""

    key: str
    """model.path."""


def work(store: Store, jobs: list[PrepareJob], emit: Emitter) -> None:
    """Obtain and convert every model of a batch. Reports each job through `emit`, failures included."""
    for job in jobs:
        with emit.job(job.key):
            paths.model_path(job.key)
