"""reporting.write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from em.reporting.collect import answers, summary_of
from em.store import layout, write_atomic
from em.sweep.state import Sweep


def write(sweep: Sweep) -> dict[str, Any]:
    """Write every result file of a sweep; returns the summary."""
    summary = summary_of(sweep)
    write_files(sweep.folder, summary, lambda: answers(sweep))
    return summary


def write_files(folder: Path, summary: dict[str, Any], rows: Any) -> None:
    """Everything a sweep folder shows, from its summary and its answers (`rows` makes an iterator of them)."""
    from em.reporting import page, table
    from em.reporting.answers import write as write_answers

    for model in summary["models"]:
        cell = folder / "cells" / model["id"]
        cell.mkdir(parents=True, exist_ok=True)
        write_atomic(cell / "metrics.json", json.dumps(model["metrics"], indent=1) + "\n")
    write_atomic(folder / layout.SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    write_atomic(folder / "table.txt", table.table(summary) + "\n")
    write_atomic(folder / "table.csv", table.table_csv(summary))
    write_answers(folder, rows())
    page.publish(folder, summary)
