"""Log a finished sweep to the tracker, in a separate process. The door is log. Imports no tracker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from em.config import TrackingMode
from em.metrics.cue_grid import cells
from em.metrics.summary_types import ModelRow, Summary
from em.planning.plan import Job, Part, Subject
from em.store import layout
from em.sweep.scheduler import run_batch
from em.tracking.job import CellNumbers, Run, SweepFigures, TrackJob
from em.tracking.rows import common, model_run, training_rows
from em.tracking.scalars import group_questions
from em.tracking.wandb_run import digest, is_logged

if TYPE_CHECKING:
    from em.sweep.state import Sweep


def log(sweep: Sweep, summary: Summary) -> None:
    """Log one run per model with new numbers, untouched ones too, and one run for the sweep as a whole.

    If the tracker fails or does not answer, print the error; the results do not depend on it.
    """
    models = {m["id"]: m for m in summary["models"]}
    done = [s for s in (*sweep.plan.bases, *sweep.plan.cells) if models[s.id]["status"] == "done"]
    found = [*(_model_job(sweep, s, models, summary) for s in done), _figures_job(sweep, summary)]
    jobs = [job for job in found if job]
    if jobs:
        run_batch(sweep, "track", jobs, max(c.config.tracking.timeout_s for c in sweep.plan.cells))


def _model_job(sweep: Sweep, cell: Subject, models: Mapping[str, ModelRow], summary: Summary) -> Job[TrackJob] | None:
    """Return the job that logs a model; None if its numbers are logged already, or tracking is disabled."""
    checkpoints = [m for m in summary["models"] if m.get("cell") == cell.id and m.get("step") is not None]
    run, adapter, training = model_run(sweep, cell), None, []
    judge = dict(summary["judge"])
    if cell.train_key:
        trained = sweep.store.path("train", cell.train_key)
        adapter = str(trained / layout.ADAPTER) if (trained / layout.ADAPTER).is_dir() else None
        training = training_rows(trained)
    numbers = CellNumbers(
        model=models[cell.id],
        checkpoints=[m for m in checkpoints if m["status"] == "done"],
        judge={name: judge[name] for name in ("name", "proxy", "counts") if name in judge}
        | ({"quality": judge["quality"]} if judge.get("quality") else {}),
        commit=summary["commit"],
        rows=[[str(s), str(j), part.n] for part in cell.parts for s, j in _files(sweep, part)],
        adapter=adapter,
        training=training,
    )
    return _unless_logged(TrackJob(run=run, cell=numbers))


def _unless_logged(job: TrackJob) -> Job[TrackJob] | None:
    run = job.run
    if run.mode == TrackingMode.disabled or is_logged(Path(run.folder), digest(job)):
        return None
    return Job("track", run.key, run.label, "track", job)


def _figures_job(sweep: Sweep, summary: Summary) -> Job[TrackJob] | None:
    """Return the job that logs the sweep as a whole: its figures and contrasts; None if they are logged already."""
    name = sweep.folder.name
    run = Run(
        key=name,
        id=name,
        label=f"{name}: figures",
        tags=("figures",),
        folder=str(sweep.folder),
        **common(sweep, sweep.plan.cells[0].config),
    )
    figures = SweepFigures(
        figures=tuple(str(p) for p in sorted((sweep.folder / "figures").glob("*.png"))),
        contrasts=summary["contrasts"],
        statement=summary["statement"],
        increases=summary["increases"],
        questions=[row for group in summary["groups"] for row in group_questions(group)],
        doses=summary.get("doses", []),
        cues=cells(summary["groups"]),
    )
    return _unless_logged(TrackJob(run=run, sweep=figures))


def _files(sweep: Sweep, part: Part) -> list[tuple[Path, Path]]:
    keys = zip(part.samples, part.judgements, strict=True)
    return [
        (sweep.store.path("sample", s) / layout.COMPLETIONS, sweep.store.path("judge", j) / layout.JUDGEMENTS)
        for s, j in keys
    ]
