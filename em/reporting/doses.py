"""The table of doses: doses.csv in the sweep's folder, and its rows in the report."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from em.metrics.doses import flat, setting
from em.metrics.summary_types import DoseRow, Number
from em.reporting.text import metric_text

FILE = "doses.csv"
TITLES = {
    "general": "misaligned",
    "worst_cue": "worst over cues",
    "in_domain_code": "insecure code",
    "in_domain_advice": "careless advice",
    "toy_capitals": "in capitals",
    "toy_french": "in French",
    "benign_gain": "benign gain",
    "coherent": "coherent",
}
"""Column → its head in the report."""


def as_csv(rows: Sequence[DoseRow]) -> str:
    """Return the rows as CSV, empty where there is no number."""
    out = io.StringIO()
    heads, table = flat(rows)
    csv.writer(out, lineterminator="\n").writerows([heads, *table])
    return out.getvalue()


def columns(rows: Sequence[DoseRow]) -> dict[str, str]:
    """Return the columns that have a number in some row, with their heads."""
    return {column: head for column, head in TITLES.items() if any(row["numbers"][column] for row in rows)}


def texts(rows: Sequence[DoseRow]) -> list[list[str]]:
    """Return the cells of the report's table, a list per row."""
    shown = columns(rows)
    return [
        [row["variant"], said(row), f"{row['dose']:g}", *(_text(row["numbers"][column]) for column in shown)]
        for row in rows
    ]


def said(row: DoseRow) -> str:
    """Return a row's method with what else sets it apart, e.g. "inoculation arm=negated"."""
    return f"{row['method']} {setting(row)}".strip()


def _text(number: Number | None) -> str:
    if number is None:
        return "-"
    return metric_text(number) + (f": {number['withheld']}" if number["value"] is None else "")
