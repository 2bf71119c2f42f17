"""The file names that more than one room uses, in the store's folders and in a sweep's folder."""

from __future__ import annotations

from pathlib import Path

from em.config.train import Method
from em.store.store import Store

# <out>/store/data/<key>/
DATASET = "dataset.jsonl"

# <out>/store/scores/<key>/
SCORED = "scores"
SCORES = "scores.jsonl"

# <out>/store/train/<key>/
ADAPTER = "adapter"
MODEL = "model"
CHECKPOINTS = "checkpoints"
TRAIN_LOG = "train_log.jsonl"
GATE = "gate.json"

# <out>/store/sample/<key>/
COMPLETIONS = "completions.jsonl"
CHOICES = "choices.jsonl"

# <out>/store/judge/<key>/ and <out>/store/calibrate/<key>/
JUDGEMENTS = "judgements.jsonl"
CALIBRATION = "calibration.json"

# <out>/sweeps/<name>/
SWEEP = "sweep.json"
SUMMARY = "summary.json"
REPORT = "report.html"
JOBS = "jobs.json"
BENCHMARKS = "benchmarks.json"

# <out>/sweeps/<name>/cells/<id>/
TRACKED = "tracked.json"

# <out>/screens/<name>/
SCREENS = "screens"
NEEDS = "needs.json"
"""[[stage, key], ...]: what a screening is made of."""


def weights(store: Store, key: str, method: Method, step: int | None = None) -> Path:
    """Return the folder to serve: an adapter (lora, qlora) or a whole model (full).

    `step`: the checkpoint after that many optimiser steps; None: the end of the training.
    """
    if step is not None:
        return store.path("train", key) / CHECKPOINTS / str(step)
    return store.path("train", key) / (MODEL if method == Method.full else ADAPTER)
