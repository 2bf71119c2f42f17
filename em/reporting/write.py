"""Write the files of a sweep folder: summary, table, metrics, answers, figures, report. The door is `write`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from em.metrics.cue_grid import cells
from em.metrics.summary_types import Summary
from em.reporting import answers, cues, doses, page, table
from em.reporting.answers import AnswerRow
from em.reporting.collect import summary_of
from em.reporting.stored_answers import answers as stored_answers
from em.store import layout, write_atomic
from em.sweep.state import Sweep


def write(sweep: Sweep) -> Summary:
    """Write every result file of a sweep. Return the summary."""
    summary = summary_of(sweep)
    write_files(sweep.folder, summary, stored_answers(sweep))
    return summary


def write_files(folder: Path, summary: Summary, rows: Iterable[AnswerRow]) -> None:
    """Write a sweep folder from its summary and its answers, which are read once."""
    for model in summary["models"]:
        cell = folder / "cells" / model["id"]
        cell.mkdir(parents=True, exist_ok=True)
        write_atomic(cell / "metrics.json", json.dumps(model["metrics"], indent=1) + "\n")
    write_atomic(folder / layout.SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    write_atomic(folder / "table.txt", table.table(summary) + "\n")
    write_atomic(folder / "table.csv", table.table_csv(summary))
    if rows_of_doses := summary.get("doses"):
        write_atomic(folder / doses.FILE, doses.as_csv(rows_of_doses))
    if found := cells(summary["groups"]):
        write_atomic(folder / cues.FILE, cues.as_csv(found))
    answers.write(folder, rows)
    page.publish(folder, summary)
