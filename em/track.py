"""Hands a finished sweep to the tracker, in a process of its own; imports nothing heavy."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from em import config as config_module
from em.config import TrackingMode
from em.plan import Job
from em.schedule import run_batch
from em.sweep import Sweep
from em.tracking import already, mode


def log(sweep: Sweep, summary: dict[str, Any]) -> None:
    """One W&B run per cell with numbers that were not logged before. A failure is told; the results stand."""
    jobs = []
    for cell, model in zip(sweep.plan.cells, summary["models"][len(sweep.plan.bases) :], strict=True):
        how = mode(cell.config.tracking.mode)
        folder = sweep.folder / "cells" / cell.id
        if how == TrackingMode.disabled or model["status"] != "done" or already(folder, model, how):
            continue
        train_log = sweep.store.path("train", str(cell.train_key)) / "train_log.jsonl"
        spec = {
            "key": cell.id,
            "id": f"em-{cell.id}",
            "label": cell.label,
            "sweep": sweep.folder.name,
            "mode": how.value,
            "tags": [cell.config.model.name, cell.config.corpus.name, cell.config.dataset.variant],
            "config": config_module.as_dict(cell.config),
            "tracking": dataclasses.asdict(cell.config.tracking),
            "folder": str(folder),
            "model": model,
            "train_log": [json.loads(line) for line in train_log.read_text().splitlines()],
        }
        jobs.append(Job("track", cell.id, cell.label, "track", spec))
    if jobs:
        run_batch(sweep, "track", jobs)
