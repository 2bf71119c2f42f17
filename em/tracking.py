"""The only module that talks to Weights & Biases. It reads finished files; a run without W&B loses nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from em.config import TrackingMode
from em.events import Emitter
from em.store import Store


def mode(setting: TrackingMode) -> TrackingMode:
    """What `auto` means here: online when there is a key, else offline. WANDB_MODE, when set, wins."""
    if setting != TrackingMode.auto:
        return setting
    if os.environ.get("WANDB_MODE") in list(TrackingMode):
        return TrackingMode(os.environ["WANDB_MODE"])
    return TrackingMode.online if has_key() else TrackingMode.offline


def has_key() -> bool:
    """Whether W&B would find a key: in WANDB_API_KEY, or where `wandb login` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return path.is_file() and f"machine {host}" in path.read_text(encoding="utf-8")


def work(store: Store, jobs: list[dict[str, Any]], emit: Emitter) -> None:
    """Log one W&B run per cell: stable id, group = sweep, resolved config, train curve, metrics with bounds."""
    for job in jobs:
        with emit.job(job["key"]):
            log_cell(job)


def log_cell(job: dict[str, Any]) -> None:
    """`job`: id, label, sweep, config, model (a row of summary["models"]), folder, tracking (fields of its config)."""
    import wandb  # noqa: TID251

    folder, tracking = Path(job["folder"]), job["tracking"]
    folder.mkdir(parents=True, exist_ok=True)
    with wandb.init(
        project=tracking["project"],
        entity=tracking["entity"],
        id=job["id"],
        name=job["label"],
        group=job["sweep"],
        tags=job["tags"],
        config=job["config"],
        dir=str(folder),
        resume="allow",
        reinit="finish_previous",
        mode=job["mode"],
        settings=wandb.Settings(silent=True, x_disable_stats=True, disable_git=True),
    ) as run:
        run.define_metric("train/*", step_metric="train/step")
        for row in job["train_log"]:
            run.log({"train/step": row["step"], **{f"train/{k}": v for k, v in row.items() if k != "step"}})
        for metric in job["model"]["metrics"]:
            if metric["value"] is not None and "/" not in metric["group"]:
                name = f"{metric['group']}/{metric['name']}"
                run.summary.update(
                    {
                        name: metric["value"],
                        f"{name}_low": metric["low"],
                        f"{name}_high": metric["high"],
                        f"{name}_n": metric["n"],
                    }
                )
    marker = {"metrics": job["model"]["metrics"], "mode": job["mode"]}
    (folder / "tracked.json").write_text(json.dumps(marker), encoding="utf-8")


def already(folder: Path, model: dict[str, Any], how: TrackingMode) -> bool:
    """Whether these very numbers were logged before in this mode."""
    path = folder / "tracked.json"
    return path.exists() and json.loads(path.read_text()) == {"metrics": model["metrics"], "mode": how.value}
