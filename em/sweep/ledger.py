"""Read the ledger of a sweep: one JSON row per event, in one file per process that ran a share of it."""

from __future__ import annotations

import contextlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a sweep folder's ledgers; several ledgers are merged by the times of their rows."""
    found: list[dict[str, Any]] = []
    paths = sorted(folder.glob("ledger*.jsonl"))
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # cut by a kill or a full disk
                found.append(json.loads(line))
    return sorted(found, key=lambda row: row["time"]) if len(paths) > 1 else found


def began(folder: Path) -> str:
    """Return when the first event was recorded, as an ISO time with its offset; "" without a ledger."""
    times = [row["time"] for row in rows(folder)]
    return datetime.fromisoformat(min(times)).astimezone().isoformat() if times else ""
