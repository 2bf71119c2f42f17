"""Log to Weights & Biases: the only module that calls it. It reads finished files; a sweep does not depend on it.

A model is one run with a stable id: config, training and checkpoint curves, rates with bounds, a bar per question, a
table of answers, artifacts. A sweep is one run with its figures and contrasts. tracking/live.py logs training curves
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
from em.metrics import cue_grid, doses
from em.runtime.events import Emitter
from em.store import Store, layout
from em.tracking.job import CellNumbers, Row, Run, SweepFigures, TrackJob
from em.tracking.scalars import (
    CONTRAST_COLUMNS,
    by_what_counts,
    contrast_rows,
    contrast_scalars,
    key,
    quality,
    question_rates,
    samples,
    scalars,
)

NOW_NONE = "no number now"
"""Stands in a run's summary where an earlier log had a number that is withheld or not measured now."""


def digest(job: TrackJob) -> str:
    """Return a digest of a run's numbers and destination. If it is unchanged, the run is not logged again.

    Where the files are is not in it: the same sweep by another path is the same run.
    """
    shown: Row = {"mode": job.run.mode.value}
    if job.cell is not None:
        rows = [[*(Path(file).parts[-3:] for file in row[:2]), row[2]] for row in job.cell.rows]
        shown |= {"model": job.cell.model, "checkpoints": job.cell.checkpoints, "rows": rows}
    if job.sweep is not None:
        shown |= {**vars(job.sweep), "figures": [Path(file).name for file in job.sweep.figures]}
    names = ("backend", "project", "entity", "samples", "upload_adapters")
    where = {name: str(getattr(job.run.tracking, name)) for name in names}
    text = json.dumps([shown, where], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def is_logged(folder: Path, digest: str) -> bool:
    """Return whether the run in `folder` was logged before with the same digest."""
    path = folder / layout.TRACKED
    return bool(path.exists() and json.loads(path.read_text(encoding="utf-8")).get("shown") == digest)


def _record_logged(job: TrackJob, last: int) -> None:
    """Record that the run was logged. Called after it has ended, so nothing is missing from it."""
    run = job.run
    row = {
        "shown": digest(job),
        "id": run.id,
        "mode": run.mode.value,
        "train_step": last,
        "names": sorted(_summary(job)),
    }
    (Path(run.folder) / layout.TRACKED).write_text(json.dumps(row), encoding="utf-8")


def _logged_before(run: Run) -> Row:
    """Return what is recorded of an earlier log of the run; {} without one."""
    path = Path(run.folder) / layout.TRACKED
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _summary(job: TrackJob) -> Row:
    """Return name → number, or reason why there is none, for the summary of a run.

    W&B keeps what an earlier log wrote under a name, and takes no None: a number that is gone is overwritten by words.
    """
    found: Row = {}
    if job.cell is not None:
        found = dict([*by_what_counts(scalars(job.cell.model), job.cell.judge), *quality(job.cell.judge)])
    elif job.sweep is not None:
        found = dict(contrast_scalars([*job.sweep.contrasts, *job.sweep.increases]))
    found = {name: value for name, value in found.items() if value is not None}  # e.g. the bounds of a number without
    gone = [name for name in _logged_before(job.run).get("names", ()) if name not in found]
    return found | {name: "" if name.endswith("_withheld") else NOW_NONE for name in gone}


def _last_offline_step(run: Run) -> int:
    """Return the last training step in an earlier offline run with this id; -1 without one."""
    row = _logged_before(run)
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
                _record_logged(job, -1 if on_this_machine else log_cell(run, cell, _summary(job)))
            elif job.sweep is not None:
                if not on_this_machine:
                    log_sweep(run, job.sweep, _summary(job))
                _record_logged(job, -1)


def log_cell(run: Run, cell: CellNumbers, summary: Row) -> int:
    """Log one cell, with `summary` as the run's summary. Return the last training step in the run."""
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
        logged.summary.update(summary)
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
            _artifact(logged, f"adapter-{run.key}", "model", [cell.adapter], upload=run.tracking.upload_adapters)
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


def log_sweep(run: Run, sweep: SweepFigures, summary: Row) -> None:
    """Log a sweep's figures, its contrasts and rates by question as tables and bars, its statement as notes."""
    import wandb  # noqa: TID251

    with _open(run, config={}, job_type="figures", notes=sweep.statement) as logged:
        for path in map(Path, sweep.figures):
            shown = {f"figures/{path.stem}": wandb.Image(str(path))}
            if (drawn := path.with_suffix(".svg")).is_file():  # stays sharp, and its text can be searched
                shown[f"figures_svg/{path.stem}"] = wandb.Html(drawn.read_text(encoding="utf-8"), inject=False)
            logged.log(shown)
        for name, found in (("contrasts", sweep.contrasts), ("increases", sweep.increases)):
            if found:
                table = wandb.Table(columns=list(CONTRAST_COLUMNS), data=contrast_rows(found))
                logged.log({name: table})
            if known := contrast_rows(row for row in found if row["value"] is not None):
                drawn = wandb.Table(columns=list(CONTRAST_COLUMNS), data=known)
                bar = wandb.plot.bar(drawn, "name", "value", title=f"{name}: difference of the rates")
                logged.log({f"{name}_bars": bar})
        if sweep.questions:
            columns = ["group", "question", "rate", "low", "high", "n"]
            logged.log({"rates_by_question": wandb.Table(columns=columns, data=sweep.questions)})
            for group in dict.fromkeys(str(row[0]) for row in sweep.questions):
                known = [row[1:] for row in sweep.questions if row[0] == group and row[2] is not None]
                table = wandb.Table(columns=columns[1:], data=known)
                logged.log({f"questions/{key(group)}": wandb.plot.bar(table, "question", "rate", title=group)})
        for name, (columns, data) in (("doses", doses.flat(sweep.doses)), ("cues", cue_grid.flat(sweep.cues))):
            if data:
                logged.log({name: wandb.Table(columns=columns, data=[list(row) for row in data])})
        logged.summary.update(summary)


@contextmanager
def _open(run: Run, config: Row, **more: Any) -> Iterator[Any]:
    """Open a W&B run and close it at the end, as failed if the body raises."""
    with begin(run, config, reinit="finish_previous", **more) as logged:
        yield logged


def begin(run: Run, config: Row, **more: Any) -> Any:
    """Start or continue a run at W&B."""
    import wandb  # noqa: TID251

    logged = wandb.init(
        project=run.tracking.project,
        entity=run.tracking.entity,
        id=run.id,
        name=run.label,
        group=run.sweep,
        tags=list(run.tags),
        config=config,
        dir=run.out,
        resume="allow",
        mode=cast(Literal["online", "offline", "disabled"], run.mode.value),
        settings=wandb.Settings(silent=True, x_disable_stats=True, disable_git=True),
        **more,
    )
    logged.define_metric("train/*", step_metric="train/step")
    logged.define_metric("checkpoint/*", step_metric="checkpoint/step")
    return logged


def _artifact(run: Any, name: str, kind: str, paths: list[str], upload: bool = False) -> None:
    """Log files by reference: W&B keeps their hashes, not their bytes. `upload`: send what is in the folders."""
    import wandb  # noqa: TID251

    artifact = wandb.Artifact(name, type=kind)
    for path in map(Path, paths):
        if upload:
            artifact.add_dir(str(path))
            continue
        label = path.name if path.is_dir() else "/".join(path.parts[-3:])
        artifact.add_reference(path.resolve().as_uri(), name=label)
    run.log_artifact(artifact)
