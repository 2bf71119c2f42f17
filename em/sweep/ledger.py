"""What happened in a sweep: one JSON row an event, in one file, or in one for each process that had a share of it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a sweep folder's ledger; of several ledgers, in the order of their times."""
    found: list[dict[str, Any]] = []
    paths = sorted(folder.glob("ledger*.jsonl"))
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # cut by a kill or a full disk
                found.append(json.loads(line))
    return sorted(found, key=lambda row: row["time"]) if len(paths) > 1 else found
