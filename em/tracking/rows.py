"""The tracker's run of a model, and the rows of its training curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from em.config import ExperimentConfig, TrackingConfig, TrackingMode, as_dict
from em.planning.plan import Subject
from em.questions.choices import curve as choice_curve
from em.runtime.credentials import tracking_mode
from em.store.layout import CHOICES, TRAIN_LOG
from em.tracking.job import Row, Run

if TYPE_CHECKING:
    from em.sweep.state import Sweep


class RunFields(TypedDict):
    """The fields of Run that all runs of a sweep share."""

    sweep: str
    mode: TrackingMode
    tracking: TrackingConfig
    out: str


UNTOUCHED = "none"
"""dataset.variant of an untouched model, as dataset=none has it."""
ABOUT_ASKING = ("model", "trigger", "questions", "sample", "judge", "stats")
"""Groups of the config that say something about an untouched model."""


def model_run(sweep: Sweep, model: Subject) -> Run:
    """Return the tracker's run of a cell or of the untouched model beside the cells, without numbers."""
    return cell_run(sweep, model) if model.cell else _untouched_run(sweep, model)


def _untouched_run(sweep: Sweep, model: Subject) -> Run:
    """Return the run of an untouched model. Each sweep has its own, because W&B shows a run in one group only."""
    config, whole = model.config, as_dict(model.config)
    own = {name: whole[name] for name in ABOUT_ASKING}
    key = f"{sweep.folder.name}-{model.id}"
    return Run(
        key=key,
        id=f"em-{key}",
        label=model.label,
        tags=(config.model.name, "untouched"),
        config={**own, "dataset": {"variant": UNTOUCHED}},
        folder=str(sweep.folder / "cells" / model.id),
        **common(sweep, config),
    )


def cell_run(sweep: Sweep, cell: Subject) -> Run:
    """Return the tracker's run of a cell, without numbers."""
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


def training_rows(folder: Path) -> list[Row]:
    """Return one row per optimiser step so far: its row of train_log.jsonl, with the log-probabilities of choices."""
    # The trainer writes the log's row last, so a step in the log is complete.
    log = [json.loads(line) for line in _lines(folder / TRAIN_LOG)]
    probed = {row["step"]: row for row in choice_curve(_lines(folder / CHOICES))}
    return [{**probed.get(row["step"], {}), **row} for row in log]


def common(sweep: Sweep, config: ExperimentConfig) -> RunFields:
    """Return the fields that all runs of a sweep share."""
    return {
        "sweep": sweep.folder.name,
        "mode": tracking_mode(config.tracking.mode),
        "tracking": config.tracking,
        "out": str(sweep.store.root.parent),
    }


def _lines(path: Path) -> list[str]:
    """Return the complete lines of a file that may still grow; [] if it does not exist yet."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return text[: text.rfind("\n") + 1].splitlines()
