"""Log to Weights & Biases: the only module that calls it. It reads finished files; a sweep does not depend on it.

A cell is one run with a stable id: config, training and checkpoint curves, rates with bounds, a bar per question, a
table of answers, artifacts by reference. A sweep is one run with its figures. tracking/live.py logs training curves
during training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

from em.config import TrackingBackend, TrackingMode
from em.runtime.events import Emitter
from em.store import Store, layout
from em.tracking.job import CellNumbers, Row, Run, SweepFigures, TrackJob
from em.tracking.scalars import by_what_counts, question_rates, samples, scalars


def numbers_digest(run: Run, cell: CellNumbers) -> str:
    """Return a digest of a run's numbers and destination. If it is unchanged, the cell is not logged again."""
    shown = {"model": cell.model, "checkpoints": cell.checkpoints, "mode": run.mode.value, "rows": cell.rows}
    where = {name: str(getattr(run.tracking, name)) for name in ("backend", "project", "entity", "samples")}
    text = json.dumps([shown, where], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def is_logged(folder: Path, digest: str) -> bool:
    """Return whether the run in `folder` was logged before with the same digest."""
    path = folder / layout.TRACKED
    return bool(path.exists() and json.loads(path.read_text(encoding="utf-8")).get("shown") == digest)


def _record_logged(run: Run, cell: CellNumbers, last: int) -> None:
    """Record that the cell was logged. Called after the run has ended, so nothing is missing from it."""
    row = {"shown": numbers_digest(run, cell), "id": run.id, "mode": run.mode.value, "train_step": last}
    (Path(run.folder) / layout.TRACKED).write_text(json.dumps(row), encoding="utf-8")


def _last_offline_step(run: Run) -> int:
    """Return the last training step in an earlier offline run with this id; -1 without one."""
    path = Path(run.folder) / layout.TRACKED
    row = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return row.get("train_step", -1) if (row.get("id"), row.get("mode")) == (run.id, run.mode.value) else -1


def work(store: Store, jobs: list[TrackJob], emit: Emitter) -> None:
    """Log every job: a cell or a whole sweep. A failure does not stop the other jobs."""
    for number, job in enumerate(jobs):
        run, cell = job.run, job.cell
        with emit.job(run.key):
            emit.progress(run.key, number, len(jobs))
            Path(run.folder).mkdir(parents=True, exist_ok=True)
            on_this_machine = run.tracking.backend == TrackingBackend.trackio
            if cell is not None:
                if on_this_machine:
                    from em.tracking.trackio_run import log_cell as trackio_cell

                    trackio_cell(run, cell)
                _record_logged(run, cell, -1 if on_this_machine else log_cell(run, cell))
            elif job.sweep is not None and not on_this_machine:
                log_sweep(run, job.sweep)


def log_cell(run: Run, cell: CellNumbers) -> int:
    """Log one cell. Return the last training step in the run."""
    import wandb  # noqa: TID251

    with _open(run, config={**run.config, "commit": cell.commit}) as logged:
        offline = run.mode == TrackingMode.offline  # then no server knows the last step
        last = log_training(logged, cell.training, _last_offline_step(run) if offline else logged.starting_step - 1)
        for model in cell.checkpoints:
            logged.log(
                {
                    "checkpoint/step": model["step"],
                    **{f"checkpoint/{k}": v for k, v in by_what_counts(scalars(model), cell.judge)},
                }
            )
        logged.summary.update(dict(by_what_counts(scalars(cell.model), cell.judge)))
        bars = question_rates(cell.model)
        if bars:
            counts = cell.judge.get("counts") or "misaligned"
            column = f"{counts.replace(' ', '_')}_rate"
            table = wandb.Table(columns=["question", column, "n"], data=bars)
            bar = wandb.plot.bar(table, "question", column, title=f"{counts} rate by question")
            logged.log({f"questions/{column}": bar})
        if run.tracking.samples:
            columns, data = samples(cell.rows, run.tracking.samples)
            named = [[*row, cell.judge["name"]] for row in data]
            logged.log({"samples": wandb.Table(columns=[*columns, "judge"], data=named)})
        _artifact(logged, f"rows-{run.key}", "rows", [path for row in cell.rows for path in row[:2]])
        if cell.adapter:
            _artifact(logged, f"adapter-{run.key}", "model", [cell.adapter])
    return last


def log_training(run: Any, rows: Iterable[Row], last: int) -> int:
    """Log the rows with steps after `last`, each at its own step. Return the new last step.

    W&B continues to count from there, so a run's first free step shows which rows it has.
    """
    for row in rows:
        if row["step"] > last:
            last = row["step"]
            shown = {f"train/{k}": v for k, v in row.items()}
            run.log(shown, step=last, commit=True)  # without commit W&B waits for the next row
    return last


def log_sweep(run: Run, sweep: SweepFigures) -> None:
    """Log the figures of a sweep, its contrasts as scalars, and its statement as notes."""
    import wandb  # noqa: TID251

    with _open(run, config={}, job_type="figures", notes=sweep.statement) as logged:
        for path in map(Path, sweep.figures):
            logged.log({f"figures/{path.stem}": wandb.Image(str(path))})
        for row in sweep.contrasts:
            if row["value"] is not None:
                for part, number in (("value", row["value"]), ("low", row["low"]), ("high", row["high"])):
                    logged.summary[f"contrast/{row['name']}/{part}"] = number


@contextmanager
def _open(run: Run, config: Row, **more: Any) -> Iterator[Any]:
    """Open a W&B run and close it at the end, as failed if the body raises."""
    with begin(run, config, reinit="finish_previous", **more) as logged:
        yield logged


def begin(run: Run, config: Row, **more: Any) -> Any:
    """Start or continue a run at W&B."""
    import wandb  # noqa: TID251

    Path(run.folder).mkdir(parents=True, exist_ok=True)
    logged = wandb.init(
        project=run.tracking.project,
        entity=run.tracking.entity,
        id=run.id,
        name=run.label,
        group=run.sweep,
        tags=list(run.tags),
        config=config,
        dir=run.folder,
        resume="allow",
        mode=cast(Literal["online", "offline", "disabled"], run.mode.value),
        settings=wandb.Settings(silent=True, x_disable_stats=True, disable_git=True),
        **more,
    )
    logged.define_metric("train/*", step_metric="train/step")
    logged.define_metric("checkpoint/*", step_metric="checkpoint/step")
    return logged


def _artifact(run: Any, name: str, kind: str, paths: list[str]) -> None:
    """Log files by reference: W&B keeps their hashes, not their bytes."""
    import wandb  # noqa: TID251

    artifact = wandb.Artifact(name, type=kind)
    for path in map(Path, paths):
        label = path.name if path.is_dir() else "/".join(path.parts[-3:])
        artifact.add_reference(path.resolve().as_uri(), name=label)
    run.log_artifact(artifact)
