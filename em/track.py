"""Hands a finished sweep to the tracker, in a process of its own; imports nothing heavy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em import config as config_module
from em.choices import CHOICES
from em.choices import curve as choice_curve
from em.config import ExperimentConfig, TrackingMode
from em.plan import Job, Subject
from em.schedule import run_batch
from em.track_job import CellNumbers, Run, SweepFigures, TrackJob
from em.tracking import already, mode, shown_digest
from em.verify import LOG

if TYPE_CHECKING:
    from em.sweep import Sweep


def log(sweep: Sweep, summary: dict[str, Any]) -> None:
    """One run per cell with numbers that were not logged before, one for the sweep's figures.

    A failure, or a tracker that does not answer, is told; the results stand.
    """
    models = {m["id"]: m for m in summary["models"]}
    cells = [c for c in sweep.plan.cells if models[c.id]["status"] == "done"]
    jobs = [job for cell in cells if (job := _cell(sweep, cell, models, summary))]
    whole = _sweep(sweep, summary) if jobs else None
    if jobs:
        timeout_s = max(c.config.tracking.timeout_s for c in cells)
        run_batch(sweep, "track", [*jobs, *([whole] if whole else [])], timeout_s)


def _cell(sweep: Sweep, cell: Subject, models: dict[str, Any], summary: dict[str, Any]) -> Job[TrackJob] | None:
    """What is logged of one cell; None when there is nothing to do."""
    folder = sweep.folder / "cells" / cell.id
    checkpoints = [m for m in summary["models"] if m.get("cell") == cell.id and m.get("step") is not None]
    run, adapter, training = cell_run(sweep, cell), None, []
    if cell.train_key:
        trained = sweep.store.path("train", cell.train_key)
        adapter = str(trained / "adapter") if (trained / "adapter").is_dir() else None
        training = training_rows(trained)
    numbers = CellNumbers(
        model=models[cell.id],
        checkpoints=[m for m in checkpoints if m["status"] == "done"],
        judge={k: summary["judge"].get(k) for k in ("name", "proxy")},
        commit=summary["commit"],
        rows=[[str(s), str(j), part.n] for part in cell.parts for s, j in _files(sweep, part)],
        adapter=adapter,
        training=training,
    )
    if run.mode == TrackingMode.disabled or already(folder, shown_digest(run, numbers)):
        return None
    return Job("track", cell.id, cell.label, "track", TrackJob(run=run, cell=numbers))


def cell_run(sweep: Sweep, cell: Subject) -> Run:
    """The W&B run of a cell: what is known of it before it has any number."""
    config = cell.config
    return Run(
        key=cell.id,
        id=f"em-{cell.id}",
        label=cell.label,
        tags=(config.model.name, config.corpus.name, config.dataset.variant),
        config=config_module.as_dict(config),
        folder=str(sweep.folder / "cells" / cell.id),
        **_common(sweep, config),
    )


def training_rows(folder: Path) -> list[dict[str, Any]]:
    """A row an optimiser step so far: what train_log.jsonl says of it, and the options' log-probabilities where asked.

    The log's row is written last, so a step that is there is whole.
    """
    log = [json.loads(line) for line in _lines(folder / LOG)]
    probed = {row["step"]: row for row in choice_curve(_lines(folder / CHOICES))}
    return [{**probed.get(row["step"], {}), **row} for row in log]


def _sweep(sweep: Sweep, summary: dict[str, Any]) -> Job[TrackJob]:
    """What is logged of the sweep as a whole: the figures and the contrasts."""
    name = sweep.folder.name
    run = Run(
        key=name,
        id=name,
        label=f"{name}: figures",
        tags=("figures",),
        folder=str(sweep.folder),
        **_common(sweep, sweep.plan.cells[0].config),
    )
    figures = SweepFigures(
        figures=tuple(str(p) for p in sorted((sweep.folder / "figures").glob("*.png"))),
        contrasts=summary["contrasts"],
        statement=summary["statement"],
    )
    return Job("track", run.key, run.label, "track", TrackJob(run=run, sweep=figures))


def _common(sweep: Sweep, config: ExperimentConfig) -> dict[str, Any]:
    return {
        "sweep": sweep.folder.name,
        "mode": mode(config.tracking.mode),
        "tracking": config.tracking,
        "out": str(sweep.store.root.parent),
    }


def _files(sweep: Sweep, part: Any) -> list[tuple[Path, Path]]:
    keys = zip(part.samples, part.judgements, strict=True)
    return [
        (sweep.store.path("sample", s) / "completions.jsonl", sweep.store.path("judge", j) / "judgements.jsonl")
        for s, j in keys
    ]


def _lines(path: Path) -> list[str]:
    """The whole lines of a file that may be growing, or not be there yet."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return text[: text.rfind("\n") + 1].splitlines()
