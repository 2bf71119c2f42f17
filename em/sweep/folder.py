"""Read the files of a sweep folder: cells, configs, summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from em.metrics.summary_types import Summary
from em.store import SWEEP_FORMAT, StoreError, layout


def sweep_file(folder: Path, name: str) -> Path:
    """Return the path of a file of a sweep folder. Raises StoreError if the folder is not a sweep's."""
    path = folder / name
    if not path.is_file() and (folder / layout.SWEEP).is_file():
        raise StoreError(f"{folder} has no results yet (no {name}): `em status {folder}` says what is left to do")
    if not path.is_file() and (folder / layout.SUMMARY).is_file():
        raise StoreError(
            f"{folder} holds no {name}: it was imported or copied without its store; em report, em compare and "
            "em export csv, parquet or inspect read such a folder"
        )
    if not path.is_file():
        raise StoreError(f"{folder} holds no {name}: give a sweep folder, e.g. outputs/sweeps/em-1a2b3c4d")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file of a sweep folder. Raises StoreError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(
            f"{path} is damaged ({error}): delete it and run the sweep's command again, nothing is done twice"
        ) from error


def read_summary(folder: Path) -> Summary:
    """Return summary.json (docs/summary.md). Raises StoreError if it is missing or damaged."""
    return cast(Summary, read_json(sweep_file(folder, layout.SUMMARY)))


def read_sweep(folder: Path) -> dict[str, Any]:
    """Return sweep.json: the cells with their resolved configs and stage keys, and the units of work per stage."""
    path = sweep_file(folder, layout.SWEEP)
    found = read_json(path)
    if found.get("format") != SWEEP_FORMAT:
        raise StoreError(f"{path} has format {found.get('format')}, this version of em knows {SWEEP_FORMAT}")
    return found


def configs_of(folder: Path) -> list[Any]:
    """Return the cells of a sweep as they were resolved, to be run below the folder where it is now."""
    from omegaconf import OmegaConf

    from em import config

    cells = [cell for cell in read_sweep(folder)["cells"] if cell["kind"] == "cell"]
    out = str(out_of(folder))
    return [config.load(OmegaConf.create({**cell["config"], "out": out})) for cell in cells]


def out_of(folder: Path) -> Path:
    """Return <out> of a sweep folder <out>/sweeps/<name>, resolved from the current folder."""
    out = folder.resolve().parents[1]
    if not (out / "store").is_dir():
        raise StoreError(f"{out} holds no store: a sweep folder lies in <out>/sweeps/")
    return out
