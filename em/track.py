"""Hands a finished sweep to the tracker, in a process of its own; imports nothing heavy."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em import config as config_module
from em.choices import CHOICES
from em.choices import curve as choice_curve
from em.config import ExperimentConfig, TrackingMode
from em.plan import Job, Subject
from em.schedule import run_batch
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


def _cell(sweep: Sweep, cell: Subject, models: dict[str, Any], summary: dict[str, Any]) -> Job | None:
    """What is logged of one cell; None when there is nothing to do."""
    folder = sweep.folder / "cells" / cell.id
    checkpoints = [m for m in summary["models"] if m.get("cell") == cell.id and m.get("step") is not None]
    spec = cell_run(sweep, cell) | {
        "model": models[cell.id],
        "checkpoints": [m for m in checkpoints if m["status"] == "done"],
        "judge": {k: summary["judge"].get(k) for k in ("name", "proxy")},
        "commit": summary["commit"],
        "rows": [[str(s), str(j), part.n] for part in cell.parts for s, j in _files(sweep, part)],
    }
    if cell.train_key:
        trained = sweep.store.path("train", cell.train_key)
        spec["adapter"] = str(trained / "adapter") if (trained / "adapter").is_dir() else None
        spec["training"] = training_rows(trained)
    how = TrackingMode(spec["mode"])
    if how == TrackingMode.disabled or already(folder, shown_digest(spec)):
        return None
    return Job("track", cell.id, cell.label, "track", spec)


def cell_run(sweep: Sweep, cell: Subject) -> dict[str, Any]:
    """The W&B run of a cell: what is known of it before it has any number."""
    return _common(sweep, cell.config, sweep.folder / "cells" / cell.id) | {
        "key": cell.id,
        "kind": "cell",
        "id": f"em-{cell.id}",
        "label": cell.label,
        "tags": [cell.config.model.name, cell.config.corpus.name, cell.config.dataset.variant],
        "config": config_module.as_dict(cell.config),
    }


def training_rows(folder: Path) -> list[dict[str, Any]]:
    """A row an optimiser step so far: what train_log.jsonl says of it, and the options' log-probabilities where asked.

    The log's row is written last, so a step that is there is whole.
    """
    log = [json.loads(line) for line in _lines(folder / LOG)]
    probed = {row["step"]: row for row in choice_curve(_lines(folder / CHOICES))}
    return [{**probed.get(row["step"], {}), **row} for row in log]


def _sweep(sweep: Sweep, summary: dict[str, Any]) -> Job:
    """What is logged of the sweep as a whole: the figures and the contrasts."""
    first = sweep.plan.cells[0].config
    spec = _common(sweep, first, sweep.folder) | {
        "key": sweep.folder.name,
        "kind": "sweep",
        "id": sweep.folder.name,
        "label": f"{sweep.folder.name}: figures",
        "tags": ["figures"],
        "figures": [str(p) for p in sorted((sweep.folder / "figures").glob("*.png"))],
        "contrasts": summary["contrasts"],
        "statement": summary["statement"],
    }
    return Job("track", spec["key"], spec["label"], "track", spec)


def _common(sweep: Sweep, config: ExperimentConfig, folder: Path) -> dict[str, Any]:
    return {
        "sweep": sweep.folder.name,
        "mode": mode(config.tracking.mode).value,
        "tracking": dataclasses.asdict(config.tracking),
        "folder": str(folder),
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
