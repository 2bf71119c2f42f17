"""A figure as plain data, which chart.py draws for the files, the HTML report and notebooks.

A withheld number is a mark whose value is None. It is always drawn: as a hollow x on the axis, never as a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from em.metrics.counted import renamed
from em.metrics.summary_types import CountedNumber, Number, Summary
from em.reporting.text import in_words

AnswerFilter = dict[str, str | list[str]]
"""Field of an answer → the value, or values, to show: the filters of the report's list."""


class Form(StrEnum):
    """How the marks of a panel are drawn."""

    points = "points"
    """A marker with error bars per mark, over categories."""
    bars = "bars"
    """Grouped bars with error bars, over categories."""
    stacked = "stacked"
    """One bar per category with the series stacked: shares of one whole. Their bounds are text only, not drawn."""
    lines = "lines"
    """Lines over numbers, with a band where marks have bounds."""
    cloud = "cloud"
    """Many answers as dots: `Series.cloud`."""
    heat = "heat"
    """Rows × columns of numbers."""
    plane = "plane"
    """Markers with error bars in both directions."""


@dataclass(frozen=True)
class Look:
    """Colours on a white and on a dark ground, and the marker and dash that distinguish series without colour."""

    light: str
    dark: str
    marker: str = "circle"
    dash: str = "solid"


@dataclass(frozen=True)
class Mark:
    """One number. `x` is a number or the index of a category; `row` is the index of a category on a heat map's y axis.

    `value` is None if the number is withheld. In a plane `x` is a number of its own, and None if that is withheld.
    """

    x: float | None
    value: float | None
    low: float | None = None
    high: float | None = None
    x_low: float | None = None
    x_high: float | None = None
    row: int | None = None
    told: str = ""
    """The number in words, shown on hovering and in the table below the figure."""
    size: float | None = None
    """plane: a third number as the marker's size, from 0 to 1; None: the common size."""
    dots: tuple[float, ...] = ()
    """The single models' values behind a mean over models."""
    answers: AnswerFilter = field(default_factory=dict)
    """The answers behind the number."""
    word: str = ""
    """A word that is drawn with it. heat: in the cell of a missing number; plane: beside the marker of a path."""

    @property
    def position(self) -> float:
        """Return `x`. Raises ValueError if it is withheld, which happens in a plane only."""
        if self.x is None:
            raise ValueError(f"a mark without x: {self.told}")
        return self.x

    @property
    def cell(self) -> tuple[float, int]:
        """Return column and row in a heat map. Raises ValueError without a row."""
        if self.row is None:
            raise ValueError(f"a mark without a row: {self.told}")
        return self.position, self.row


@dataclass(frozen=True)
class Series:
    """Marks, or a cloud of answers, that share one label and look."""

    label: str
    look: Look
    marks: tuple[Mark, ...] = ()
    cloud: tuple[tuple[int, int, int], ...] = ()
    """(x, y, answers) with scores rounded to whole points."""


@dataclass(frozen=True)
class Axis:
    """An axis over categories or over numbers."""

    label: str
    categories: tuple[str, ...] = ()
    share: bool = False
    """Whether values are shares, which are drawn from zero and in percent."""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class GuideLine:
    """A dashed line across a panel."""

    at: float
    text: str
    vertical: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes with its series."""

    form: Form
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    title: str = ""
    rules: tuple[GuideLine, ...] = ()
    shade: tuple[float, float, float, float] | None = None
    """A shaded region: x from, x to, y from, y to."""
    pooled_first: bool = False
    """Whether the first category is all the others together."""
    top: float | None = None
    """heat: the value that gets the full colour."""
    path: bool = False
    """plane: whether the marks of a series are joined in their order."""
    fade: float = 0.6
    """cloud: the share of the ground that shows through one answer; fade**n through n of them."""

    @property
    def has_withheld(self) -> bool:
        return any(m.value is None or m.x is None for s in self.series for m in s.marks)


@dataclass(frozen=True)
class Figure:
    """One figure: panels with a title, a caption and notes."""

    name: str
    """Stem of its files."""
    title: str
    caption: str
    panels: tuple[Panel, ...]
    notes: tuple[str, ...] = ()
    """The kind of the error bars, the meaning of an x, and the models that are missing because they failed."""

    def marks(self) -> list[Mark]:
        """Return the marks of all panels."""
        return [m for p in self.panels for s in p.series for m in s.marks]


def mark(x: float, metric: CountedNumber, dots: tuple[float, ...] = (), answers: AnswerFilter | None = None) -> Mark:
    """Return the mark of a metric of summary.json."""
    bounds = metric["low"], metric["high"]
    return Mark(x, metric["value"], *bounds, told=in_words(metric), dots=dots, answers=answers or {})


WITHHELD = "hollow x: withheld, see the report for why"


def notes_on(metrics: Sequence[Number], summary: Summary, withheld: str = WITHHELD) -> tuple[str, ...]:
    """Return a figure's notes: the kind of the error bars, how a withheld number looks, and the models that failed."""
    drawn = [m for m in metrics if m["value"] is not None]
    kinds = dict.fromkeys(m["interval"] for m in drawn if m["low"] is not None and m["interval"])
    out = ["bars: " + "; ".join(kinds)] if kinds else []
    if len(drawn) < len(metrics):
        out.append(withheld)
    failed = [m["label"] for m in summary["models"] if m["status"] == "failed" and not m.get("metrics")]
    if failed:
        out.append("failed, not drawn: " + ", ".join(failed))
    return tuple(out)


def judge_label(label: str, summary: Summary) -> str:
    """Return an axis label that says if a proxy judge made the numbers."""
    label = renamed(label, summary)
    return f"{label}, proxy judge" if summary["judge"].get("proxy") else label
