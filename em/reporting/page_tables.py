"""The tables of the HTML report as the template shows them: rates, differences, coverage, published numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from em.metrics.by_text import CODE
from em.metrics.summary_types import Contrast, Expected, MetricRow, ModelRow, Number
from em.records import Outcome
from em.reporting.figures.spec import Look
from em.reporting.figures.style import INK
from em.reporting.table import (
    NARROW_RATES,
    Notes,
    TableRow,
    error_of,
    length_cells,
    own_measures,
    topic_cells,
    unbroken,
)
from em.reporting.text import difference_text, excluded_text, find_metric, metric_text, pooled

FOREST = 190.0
"""Width of a table's interval bars, in CSS pixels."""
OUTCOMES = tuple(o.value for o in Outcome)
Counts = dict[str, str | int]
"""Verdicts of a run in one set by one rubric: label, set, rubric, sampled, and a count per outcome."""


class Cell(MetricRow):
    """A metric with its texts."""

    short: str
    """The value in words."""
    between: str
    """The interval in words."""
    word: str
    """Text before the value."""
    out: str
    """Answers left out, by reason."""
    note: int | None
    """Number of the footnote of a withheld value."""


class Bar(TypedDict):
    """Positions of an interval bar in pixels; None for a part that is not drawn."""

    at: float | None
    low: float | None
    high: float | None
    zero: float | None


class ContrastCell(Contrast):
    """A difference with its text and its interval bar."""

    text: str
    bar: Bar | None


@dataclass(kw_only=True)
class OverviewRow:
    """One row of the table of rates, or of the table of runs."""

    id: str
    label: str
    look: Look
    base: bool
    """Whether it is an untouched model."""
    models: int
    step: int | None
    failed: bool
    error: str
    prompts: Sequence[str] | None
    train: Mapping[str, int | float | str]
    """Plain facts of its training run."""
    rate: list[Cell]
    """The headline rate; empty if it was not measured."""
    coherent: list[Cell]
    code: list[Cell]
    """Share of answers with code."""
    lengths: list[str]
    """The rate per band of lengths."""
    words: str
    """Mean length of the answers."""
    topics: list[str]
    """Share of answers that name each subject of training."""
    narrow: list[Cell]
    own: list[Cell]
    """Measures that the question sets define."""
    excluded: str
    highest: float | None
    """Upper end of the rate's interval, else the rate."""
    bar: Bar | None = None


@dataclass(kw_only=True)
class Differences:
    """A table of differences; `scale` says what half the width of a bar means."""

    contrasts: list[ContrastCell]
    scale: str


def overview(rows: Iterable[TableRow], looks: Mapping[str, Look], notes: Notes) -> tuple[list[OverviewRow], str]:
    """Return the rows of the table of rates, and the share that the full width of a bar means."""
    out = [overview_row(row, notes, looks.get(row["id"], INK)) for row in rows]
    top = max([0.05, *(row.highest for row in out if row.highest is not None)])
    for row in out:
        row.bar = _bar(row.rate[0], 0.0, top) if row.rate else None
    return out, f"{100 * top:.0f}%"


def overview_row(row: TableRow, notes: Notes, look: Look) -> OverviewRow:
    """Return a group or a model of the summary as a row."""
    rate, coherent = find_metric(row, "misaligned_rate", "open"), find_metric(row, "coherent_share", "open")
    code, (lengths, words) = find_metric(row, CODE, "open"), length_cells(row)
    narrow = [(pooled(row, name), f"{word} ") for name, word in NARROW_RATES.items()]
    run: ModelRow | None = None if "models" in row else row
    facts = (run["train"] if run else None) or {}
    return OverviewRow(
        id=row["id"],
        label=row["label"],
        look=look,
        base=row["variant"] is None,
        models=len(row["models"]) if "models" in row else 1,
        step=row["step"],
        failed=run is not None and run["status"] == "failed",
        error=error_of(row),
        prompts=run.get("prompts") if run else None,
        train={k: v for k, v in facts.items() if isinstance(v, int | float | str) and v != ""},
        rate=[_cell(rate, notes)] if rate else [],
        coherent=[_cell(coherent, notes)] if coherent else [],
        code=[_cell(code, notes)] if code else [],
        lengths=lengths,
        words=words,
        topics=topic_cells(row),
        narrow=[_cell(m, notes, word) for m, word in narrow if m],
        own=[_cell(m, notes, f"{m['label']}: ") for m in own_measures(row)],
        excluded=unbroken(excluded_text(rate)) if rate else "-",
        highest=(rate["value"] if rate["high"] is None else rate["high"]) if rate else None,
    )


def _cell(metric: MetricRow, notes: Notes, word: str = "") -> Cell:
    short, _, between = metric_text(metric).partition(" [")
    return {
        **metric,
        "short": short,
        "between": f"[{between}" if between else "",
        "word": word,
        "out": excluded_text(metric),
        "note": notes.number(metric),
    }


def _bar(number: Number, least: float, most: float) -> Bar | None:
    """Return the interval bar of a number between two shares; None without a value."""
    if number["value"] is None:
        return None

    def at(value: float | None) -> float | None:
        return None if value is None else round((min(most, max(least, value)) - least) / (most - least) * FOREST, 1)

    zero = at(0.0) if least < 0 else None
    bounded = number["low"] is not None and number["high"] is not None
    ends = (number["low"], number["high"]) if bounded else (None, None)
    return {"at": at(number["value"]), "low": at(ends[0]), "high": at(ends[1]), "zero": zero}


def differences(rows: Sequence[Contrast]) -> Differences | None:
    """Return the table of contrasts or increases; None without rows."""
    if not rows:
        return None
    ends = [abs(end) for r in rows for end in (r["value"], r["low"], r["high"]) if end is not None]
    most = max([0.05, *ends])
    listed: list[ContrastCell] = [{**r, "text": difference_text(r), "bar": _bar(r, -most, most)} for r in rows]
    return Differences(contrasts=listed, scale=f"{100 * most:.0f} points")


def expected(rows: Iterable[Expected]) -> list[Mapping[str, Any]]:
    """Return the published numbers, with our value as `text` and the band in words."""
    return [{**row, "text": metric_text(row), "band": _band(row["band"])} for row in rows]


def _band(band: Sequence[float] | None) -> str:
    return "–" if band is None else f"{100 * band[0]:.1f} to {100 * band[1]:.1f}%"


def coverage(models: Iterable[ModelRow]) -> list[Counts]:
    """Return verdicts by run, set and rubric, over all questions and trigger conditions."""
    heads: dict[tuple[str, str, str], dict[str, int]] = {}
    for model in models:
        for row in model["coverage"]:
            counts: Mapping[str, Any] = row
            found = heads.setdefault((model["label"], row["set"], row["rubric"]), {})
            for name in ("sampled", *OUTCOMES):
                found[name] = found.get(name, 0) + counts.get(name, 0)  # an older summary lacks an outcome
    return [{"label": label, "set": name, "rubric": rubric, **c} for (label, name, rubric), c in heads.items()]
