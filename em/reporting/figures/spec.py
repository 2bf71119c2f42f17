"""What a figure says, without how it is drawn: plain data, drawn by canvas.py (PNG, SVG) and by the HTML report.

A withheld number is a mark whose value is None: it is drawn as a hollow x on the axis, never as a number and never left
out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from em.reporting.text import Number, in_words


class Form(StrEnum):
    """How the marks of a panel are drawn."""

    points = "points"
    """One marker with error bars a mark, over categories."""
    bars = "bars"
    """Grouped bars with error bars, over categories."""
    stacked = "stacked"
    """One bar a category, the series on top of each other: shares of one whole. Their bounds are told, not drawn."""
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
    """Colours on white and on dark ground, and what tells series apart without colour."""

    light: str
    dark: str
    marker: str = "circle"
    dash: str = "solid"


@dataclass(frozen=True)
class Mark:
    """One number. `x` is a category's index or a number, `row` the category on y of a heat map.

    `value` is None where the number is withheld, `x` in a plane where that one is.
    """

    x: float | None
    value: float | None
    low: float | None = None
    high: float | None = None
    x_low: float | None = None
    x_high: float | None = None
    row: int | None = None
    told: str = ""
    """The number in words, for hovering and for the table below the figure."""
    size: float | None = None
    """plane: a third number as the marker's size, from 0 to 1; null: as any other marker."""
    dots: tuple[float, ...] = ()
    """The single models' values behind a mean over models."""
    answers: dict[str, Any] = field(default_factory=dict)
    """Which answers it was made of, as filters of the report's list."""


@dataclass(frozen=True)
class Series:
    label: str
    look: Look
    marks: tuple[Mark, ...] = ()
    cloud: tuple[tuple[int, int, int], ...] = ()
    """(x, y, answers) with scores rounded to whole points."""


@dataclass(frozen=True)
class Axis:
    label: str
    categories: tuple[str, ...] = ()
    share: bool = False
    """Values are shares: drawn from zero, in percent."""
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
    form: Form
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    title: str = ""
    rules: tuple[GuideLine, ...] = ()
    shade: tuple[float, float, float, float] | None = None
    """x from, x to, y from, y to of a shaded region."""
    pooled_first: bool = False
    """The first category is all the others together."""
    top: float | None = None
    """heat: the value of the full colour."""
    fade: float = 0.6
    """cloud: how much of the ground shows through one answer; through n of them fade**n."""

    @property
    def has_withheld(self) -> bool:
        return any(m.value is None for s in self.series for m in s.marks)


@dataclass(frozen=True)
class Figure:
    name: str
    """Stem of its files."""
    title: str
    caption: str
    panels: tuple[Panel, ...]
    notes: tuple[str, ...] = ()
    """What the bars are, what an x means, which models are missing and why."""

    def marks(self) -> list[Mark]:
        return [m for p in self.panels for s in p.series for m in s.marks]


def as_dict(figure: Figure) -> dict[str, Any]:
    """The figure as JSON's types, without fields that are null or empty."""
    return asdict(figure, dict_factory=lambda pairs: {k: v for k, v in pairs if v not in (None, "", (), {})})


def mark(x: float, metric: Number, **more: Any) -> Mark:
    """A mark of a metric of summary.json."""
    return Mark(x, metric["value"], metric["low"], metric["high"], told=in_words(metric), **more)


WITHHELD = "hollow x: withheld, see the report for why"


def notes(metrics: list[Number], summary: dict[str, Any], withheld: str = WITHHELD) -> tuple[str, ...]:
    """Which interval the bars are, what a withheld mark looks like, which models are missing because they failed."""
    drawn = [m for m in metrics if m["value"] is not None]
    kinds = dict.fromkeys(m["interval"] for m in drawn if m["low"] is not None and m["interval"])
    out = ["bars: " + "; ".join(kinds)] if kinds else []
    if len(drawn) < len(metrics):
        out.append(withheld)
    failed = [m["label"] for m in summary["models"] if m["status"] == "failed" and not m.get("metrics")]
    if failed:
        out.append("failed, not drawn: " + ", ".join(failed))
    return tuple(out)


def judged(label: str, summary: dict[str, Any]) -> str:
    """An axis label that says when a proxy judge made its numbers."""
    return f"{label}, proxy judge" if summary["judge"].get("proxy") else label
