"""Where a summary was made and from what: command, machine, training files, the tracker's page."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from pathlib import Path
from urllib.parse import quote

from em.config import TrackingBackend, TrackingConfig, TrackingMode
from em.config.intervention import Where
from em.metrics.summary_types import Provenance
from em.runtime import credentials, machine
from em.store import layout
from em.sweep.state import Sweep


def provenance(sweep: Sweep) -> Provenance:
    """Return the command that wrote the results, its machine, and the sha256 of each training file."""
    gpus = [name for name, _ in machine.gpus()]
    kinds = [f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)]
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "host": platform.node(),
        "gpu": ", ".join(kinds) or ("not named by nvidia-smi" if machine.has_gpu() else "none"),
        "data": _data(sweep),
        "tracker": tracker(sweep.plan.cells[0].config.tracking, sweep.folder.name),
    }


def _data(sweep: Sweep) -> dict[str, str]:
    """Return label of a run → sha256 of its training file; without runs that have none here."""
    out = {}
    for cell in sweep.plan.cells:
        if cell.train_key is None or cell.step is not None:
            continue
        run = sweep.plan.train(cell.train_key)
        files = {cell.label: run.data_key}
        if run.intervention.changes(Where.second_phase):
            files = {f"{cell.label}, first phase": sweep.plan.train(run.plain_key).data_key, **files}
        if run.beside_key:
            files[f"{cell.label}, {run.intervention.beside}"] = run.beside_key
        for name, key in files.items():
            if sweep.store.has("data", key):
                out[name] = sweep.store.manifest("data", key)["files"][layout.DATASET]["sha256"]
    return out


def tracker(config: TrackingConfig, sweep: str) -> str:
    """Return the address of the sweep's runs at W&B; in words where there is none."""
    mode = credentials.tracking_mode(config.mode)
    if mode == TrackingMode.disabled:
        return "none (tracking.mode=disabled)"
    if config.backend != TrackingBackend.wandb:
        return f"Trackio, project {config.project}"
    if mode != TrackingMode.online or config.entity is None:
        where = "online" if mode == TrackingMode.online else "offline, in wandb/ of the sweep's folders"
        return f"W&B, project {config.project}, group {sweep} ({where})"
    site = os.environ.get("WANDB_BASE_URL", "https://wandb.ai").rstrip("/")
    return f"{site}/{quote(config.entity)}/{quote(config.project)}/groups/{quote(sweep)}"
