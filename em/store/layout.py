"""store.layout."""

from __future__ import annotations

from pathlib import Path

from em.config.train import Method
from em.store.store import Store

ADAPTER = "adapter"
MODEL = "model"
CHECKPOINTS = "checkpoints"


def weights(store: Store, key: str, method: Method, step: int | None = None) -> Path:
    """The folder to serve, an adapter (lora, qlora) or a whole model (full), after `step` steps; None: at the end."""
    if step is not None:
        return store.path("train", key) / CHECKPOINTS / str(step)
    return store.path("train", key) / (MODEL if method == Method.full else ADAPTER)


CHOICES = "choices.jsonl"


GATE = "gate.json"


JUDGEMENTS = "judgements.jsonl"
CALIBRATION = "calibration.json"


COMPLETIONS = "completions.jsonl"


LOG = "train_log.jsonl"
