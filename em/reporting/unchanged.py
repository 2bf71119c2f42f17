"""Results that are up to date: they are not written again if a sweep's cells, stages and code are those of last time.

<out>/sweeps/<id>/results.json     {"made_of": hash, "files": {name: bytes}}
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from em.metrics.summary_types import Summary
from em.store import StoreError, content_key, file_sha256, layout, write_atomic
from em.sweep.folder import read_summary

if TYPE_CHECKING:
    from em.sweep.state import Sweep

# Figures, tables and the report of 144 cells take minutes to draw. Finding that nothing has changed takes a second.

MARKER = "results.json"
OTHERS = (layout.SWEEP, MARKER, layout.JOBS, layout.TRACKED)
"""Files of a sweep folder that are not results. Ledgers, logs and the trackers' folders are not results either."""


def summary(sweep: Sweep) -> Summary | None:
    """Return summary.json with this run's counters if every result file is up to date; None if not."""
    try:
        marker = json.loads((sweep.folder / MARKER).read_text(encoding="utf-8"))
        if marker != {"made_of": _made_of(sweep), "files": _files(sweep.folder, marker["files"])}:
            return None
        found = read_summary(sweep.folder)
    # A marker or summary that is missing or damaged: the results are written again.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StoreError):
        return None
    if found["counters"] == dict(sweep.counters):
        return found
    found["counters"] = dict(sweep.counters)
    write_atomic(sweep.folder / layout.SUMMARY, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return remember(sweep, found)


def remember(sweep: Sweep, written: Summary) -> Summary:
    """Record what the results just written were made of. Return their summary."""
    if not sweep.failed:
        row = {"made_of": _made_of(sweep), "files": _files(sweep.folder)}
        write_atomic(sweep.folder / MARKER, json.dumps(row) + "\n")
    return written


def _made_of(sweep: Sweep) -> str:
    """Return a hash of everything that results depend on: the cells, the seals of their stages, the code."""
    plan, store = sweep.plan, sweep.store
    calibrations = {p.calibration for s in plan.subjects for p in s.parts if p.calibration}
    keys = [*plan.jobs, *(("calibrate", key) for key in sorted(calibrations))]
    seals = {f"{stage}/{key}": store.manifest(stage, key)["seal"] for stage, key in keys if store.has(stage, key)}
    cells = hashlib.sha256((sweep.folder / layout.SWEEP).read_bytes()).hexdigest()
    return content_key(cells=cells, seals=seals, failed=sorted(map(str, sweep.failed)), code=_code())


@cache
def _code() -> str:
    """Return the sha256 over the package's own files."""
    here = Path(__file__).parents[1]
    files = sorted(p for p in here.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return content_key(files={p.relative_to(here).as_posix(): file_sha256(p) for p in files})


def _files(folder: Path, only: dict[str, int] | None = None) -> dict[str, int]:
    """Return name → bytes of the result files, or of those in `only` that exist."""
    names = list(only) if only is not None else [p.relative_to(folder).as_posix() for p in folder.rglob("*")]
    return {n: (folder / n).stat().st_size for n in sorted(names) if _is_result(n) and (folder / n).is_file()}


def _is_result(name: str) -> bool:
    parts = name.split("/")
    return parts[-1] not in OTHERS and not parts[0].startswith((".", "ledger", "logs")) and not {"wandb"} & set(parts)
