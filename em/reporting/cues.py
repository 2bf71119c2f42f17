"""The grid of cues as a file: cues.csv in the sweep's folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from em.metrics.cue_grid import CueCell, flat

FILE = "cues.csv"


def as_csv(found: Sequence[CueCell]) -> str:
    """Return the cells as CSV, a row per cell, empty where there is no number."""
    out = io.StringIO()
    heads, rows = flat(found)
    csv.writer(out, lineterminator="\n").writerows([heads, *rows])
    return out.getvalue()
