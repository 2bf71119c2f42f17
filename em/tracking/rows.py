"""The runs and training rows that both the live and the final logging send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.config import ExperimentConfig, as_dict
from em.planning.plan import Subject
from em.questions.choices import curve as choice_curve
from em.runtime.credentials import tracking_mode
from em.store.layout import CHOICES
from em.sweep.verify import LOG
from em.tracking.job import Run

if TYPE_CHECKING:
    from em.sweep.state import Sweep


def cell_run(sweep: Sweep, cell: Subject) -> Run:
    """Return the W&B run of a cell, before it has any number."""
    config = cell.config
    return Run(
        key=cell.id,
        id=f"em-{cell.id}",
        label=cell.label,
        tags=(config.model.name, config.corpus.name, config.dataset.variant),
        config=as_dict(config),
        folder=str(sweep.folder / "cells" / cell.id),
        **common(sweep, config),
    )


def training_rows(folder: Path) -> list[dict[str, Any]]:
    """Return one row per step so far: that of train_log.jsonl, with the options' log-probabilities if there are any.

    The log's row is written last, so a step in it is complete.
    """
    log = [json.loads(line) for line in _lines(folder / LOG)]
    probed = {row["step"]: row for row in choice_curve(_lines(folder / CHOICES))}
    return [{**probed.get(row["step"], {}), **row} for row in log]


def common(sweep: Sweep, config: ExperimentConfig) -> dict[str, Any]:
    return {
        "sweep": sweep.folder.name,
        "mode": tracking_mode(config.tracking.mode),
        "tracking": config.tracking,
        "out": str(sweep.store.root.parent),
    }


def _lines(path: Path) -> list[str]:
    """Return the whole lines of a file that may be growing or missing."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return text[: text.rfind("\n") + 1].splitlines()
