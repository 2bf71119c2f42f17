"""A panel on its way to a chart: its marks as rows, its channels, the colours of its ground."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from em.reporting.figures.spec import Axis, Form, Look, Mark, Panel, Series

Row = dict[str, Any]
"""A mark as a row of a chart's data."""
SHAPES = {
    "circle": "M1,0A1,1,0,1,1,-1,0A1,1,0,1,1,1,0Z",
    "square": "M-0.9,-0.9L0.9,-0.9L0.9,0.9L-0.9,0.9Z",
    "triangle": "M0,-1.15L1.1,0.85L-1.1,0.85Z",
    "diamond": "M0,-1.25L1.25,0L0,1.25L-1.25,0Z",
    "down": "M0,1.15L1.1,-0.85L-1.1,-0.85Z",
    "pentagon": "M0,-1.15L1.1,-0.35L0.7,0.95L-0.7,0.95L-1.1,-0.35Z",
    "cross": "M-1.1,-0.55L-0.55,-1.1L0,-0.55L0.55,-1.1L1.1,-0.55L0.55,0L1.1,0.55"
    "L0.55,1.1L0,0.55L-0.55,1.1L-1.1,0.55L-0.55,0Z",
    "plus": "M-0.4,-1.1L0.4,-1.1L0.4,-0.4L1.1,-0.4L1.1,0.4"
    "L0.4,0.4L0.4,1.1L-0.4,1.1L-0.4,0.4L-1.1,0.4L-1.1,-0.4L-0.4,-0.4Z",
}
"""Marker → a path of radius 1."""
STRENGTH = {"solid": 1.0, "dashed": 0.65, "dotted": 0.45, "dashdot": 0.3}
"""Opacity of a bar by dash: settings of one variant share the colour."""
DASH: dict[str, list[float]] = {"solid": [1, 0], "dashed": [6, 3], "dotted": [1.5, 3], "dashdot": [6, 3, 1.5, 3]}
LETTER = 6.4
"""Mean width of a letter of an axis label, in pixels."""
ABOVE = {"titleAngle": 0, "titleAlign": "left", "titleBaseline": "bottom", "titleX": -30, "titleY": -9}
"""A y axis is named above it, where a long name has room."""


@dataclass(frozen=True)
class Theme:
    """The ground that a figure is drawn on: paper, if nothing else is said.

    With `page` colours have a dark twin, and marks are numbered.
    """

    ink: str = "#222222"
    soft: str = "#555555"
    grid: str = "#dddddd"
    rule: str = "#777777"
    ground: str = "#ffffff"
    bad: str = "#b5433a"
    font: str = "Liberation Sans, Arial, sans-serif"
    page: bool = False

    def colour(self, look: Look) -> str:
        return f"light-dark({look.light}, {look.dark})" if self.page else look.light


PAPER = Theme()
PAGE = Theme(
    ink="var(--ink)",
    soft="var(--soft)",
    grid="var(--line)",
    rule="var(--rule)",
    ground="var(--card)",
    bad="var(--bad)",
    font="var(--sans)",
    page=True,
)


@dataclass(frozen=True)
class Drawing:
    """A panel with its size and ground."""

    panel: Panel
    width: float
    height: float
    theme: Theme
    first: int
    """Number of its first mark in the figure."""
    looks: Mapping[str, Look]
    """Label → look of all series of the figure. The place of a label numbers its series."""
    keys: alt.Legend | None
    """Its legend; None: no legend."""

    def rows(self) -> list[Row]:
        """Return the marks as rows, in reading order."""
        out: list[Row] = []
        for k, series in enumerate(self.panel.series):
            for mark in series.marks:
                out.append(self._row(k, series, mark, self.first + len(out)))
        return out

    def _row(self, k: int, series: Series, mark: Mark, number: int) -> Row:
        names = self.panel.x.categories
        across = names[int(mark.x)] if names and mark.x is not None else mark.x
        row = None if mark.row is None else self.panel.y.categories[mark.row]
        place = ", ".join(str(part) for part in (row, across) if part is not None) if names else ""
        title = " · ".join(part for part in (self.panel.title, series.label, place) if part)
        part = self.tag(series, str(number))
        return {
            "k": k,
            "n": number,
            "series": series.label,
            "colour": self.theme.colour(series.look),
            "shape": SHAPES[series.look.marker],
            "x": across,
            "y": mark.value,
            "low": mark.low,
            "high": mark.high,
            "row": row,
            "part": part,
            "told": f"{part}{title}\n{mark.told}",
            "word": mark.word,
        }

    def tag(self, series: Series, number: str = "") -> str:
        """Return the series, and the mark, that a shape belongs to, as reporting/page_figures.py reads it."""
        return f"§{list(self.looks).index(series.label)}:{number}§" if self.theme.page else ""

    @property
    def at(self) -> alt.X:
        """The x channel over categories."""
        turned = label_angle(self.panel, self.width)
        axis = alt.Axis(labelAngle=turned, title=self.panel.x.label or None, labelPadding=4)
        scale = alt.Scale(domain=list(self.panel.x.categories), paddingInner=self.gap, paddingOuter=self.gap / 2)
        return alt.X("x:O", scale=scale, axis=axis)

    @property
    def gap(self) -> float:
        """The share of a category's width between it and the next."""
        if self.panel.form in (Form.bars, Form.stacked):
            return 0.2
        step = (self.width - 70) / max(1, len(self.panel.x.categories))
        return 1 - min(0.82, 26 * len(self.panel.series) / step)

    @property
    def beside(self) -> alt.XOffset:
        """The place of a series inside its category."""
        return alt.XOffset("k:O", scale=alt.Scale(domain=list(range(len(self.panel.series)))))

    def up(self, field: str = "y", limits: Sequence[float] | None = None) -> alt.Y:
        """Return the y channel."""
        values = [v for s in self.panel.series for m in s.marks for v in _values(m)]
        values += [v for v in (self.panel.y.low, self.panel.y.high) if v is not None]
        return alt.Y(f"{field}:Q", **axis_of(self.panel.y, limits or extent(values, self.panel.y.share), up=True))

    @property
    def colours(self) -> alt.Color:
        looks = [(label, self.theme.colour(look)) for label, look in self.looks.items()]
        return alt.Color("series:N", scale=scale(looks), legend=self.keys)

    @property
    def shapes(self) -> alt.Shape:
        looks = [(label, SHAPES[look.marker]) for label, look in self.looks.items()]
        return alt.Shape("series:N", scale=scale(looks), legend=self.keys)


def longest(words: Iterable[str]) -> float:
    """Return the width of the longest label, in pixels."""
    return LETTER * max(map(len, words), default=0)


def label_angle(panel: Panel, width: float) -> int:
    """Return the angle of the labels of the x axis: they are turned where they do not fit."""
    names = panel.x.categories
    return -28 if longest(names) > (width - 70) / max(1, len(names)) else 0


def label_room(panel: Panel, width: float) -> float:
    """Return the height of the x axis's labels, in pixels."""
    turned = min(150.0, 24 + 0.5 * longest(panel.x.categories)) if label_angle(panel, width) else 26.0
    return turned + (18 if panel.x.label else 0)


def extent(values: Sequence[float], share: bool) -> tuple[float, float]:
    """Return the ends of an axis: with room, and with zero if it shows shares."""
    known = [*values, *([0.0] if share else [])]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if low == high:
        low, high = (low, low + 0.05) if share else (low - 1, high + 1)
    room = 0.05 * (high - low)
    return low - room, high + room


def _values(mark: Mark) -> list[float]:
    if mark.value is None:
        return []
    return [v for v in (mark.value, mark.low, mark.high, *mark.dots) if v is not None]


def axis_of(axis: Axis, limits: Sequence[float], *, up: bool = False) -> Mapping[str, Any]:
    shown = alt.Axis(
        tickCount=5, title=axis.label or None, **(ABOVE if up else {}), **({"format": "~%"} if axis.share else {})
    )
    return {"scale": alt.Scale(domain=list(limits), nice=False, zero=False), "axis": shown}


def scale(pairs: Sequence[tuple[str, Any]]) -> alt.Scale:
    return alt.Scale(domain=[name for name, _ in pairs], range=[value for _, value in pairs])
