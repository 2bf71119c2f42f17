"""Trackio, a dashboard on this machine with W&B's own call names: `TRACKIO_DIR=outputs/trackio trackio show`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from em.track_job import CellNumbers, Run
from em.tracking import scalars


def log_cell(run: Run, cell: CellNumbers) -> None:
    """One Trackio run a cell: config, training and checkpoint curves, rates with their bounds as the last row."""
    os.environ.setdefault("TRACKIO_DIR", str(Path(run.out).resolve() / "trackio"))
    import trackio

    trackio.init(
        project=run.tracking.project,
        name=f"{run.label} {run.key}",
        group=run.sweep,
        config=dict(_flat(run.config)),
        resume="allow",
    )
    try:
        for row in cell.training:
            trackio.log({f"train/{k}": v for k, v in row.items() if k != "step"}, step=row["step"])
        for model in cell.checkpoints:
            trackio.log({f"checkpoint/{k}": v for k, v in scalars(model)}, step=model["step"])
        trackio.log(dict(scalars(cell.model)))
    finally:
        trackio.finish()


def _flat(row: dict[str, Any], prefix: str = "") -> Any:
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, int | float | str | bool | None) else str(value)
