"""Obtain and convert a base model once, in a process of its own (it needs torch; the sweep does not)."""

from __future__ import annotations

from typing import Any

from em import models
from em.events import Emitter
from em.store import Store


def work(store: Store, jobs: list[dict[str, Any]], emit: Emitter) -> None:
    for job in jobs:
        with emit.job(job["key"]):
            models.model_path(job["path"])
