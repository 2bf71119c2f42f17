"""Log to Trackio, a local dashboard with W&B's API: `TRACKIO_DIR=outputs/trackio trackio show`."""

from __future__ import annotations

import os
from pathlib import Path

from em.planning.cells import flatten
from em.tracking.job import CellNumbers, Row, Run
from em.tracking.scalars import by_what_counts, quality, scalars

Setting = int | float | str | bool | None


def log_cell(run: Run, cell: CellNumbers) -> None:
    """Log a cell as one Trackio run: config, training and checkpoint curves, and rates with bounds as the last row."""
    os.environ.setdefault("TRACKIO_DIR", str(Path(run.out).resolve() / "trackio"))
    import trackio

    trackio.init(
        project=run.tracking.project,
        name=f"{run.label} {run.key}",
        group=run.sweep,
        config=_settings(run.config),
        resume="allow",
    )
    try:
        for row in cell.training:
            trackio.log({f"train/{k}": v for k, v in row.items() if k != "step"}, step=row["step"])
        for model in cell.checkpoints:
            trackio.log(
                {f"checkpoint/{k}": v for k, v in by_what_counts(scalars(model), cell.judge)}, step=model["step"]
            )
        trackio.log(dict([*by_what_counts(scalars(cell.model), cell.judge), *quality(cell.judge)]))
    finally:
        trackio.finish()


def _settings(config: Row) -> dict[str, Setting]:
    """Return the config as Trackio shows it: dotted name → plain value."""
    flat = ((name, value) for name, value in flatten(config) if value != {})
    return {name: value if isinstance(value, int | float | str | bool | None) else str(value) for name, value in flat}
