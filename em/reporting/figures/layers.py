"""The layers of one panel of a figure, by form: marks, error bars, bands, withheld numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from em.reporting.figures.drawing import (
    DASH,
    SHAPES,
    STRENGTH,
    Drawing,
    Row,
    axis_of,
    extent,
    label_angle,
    scale,
)

HIT = 60
"""Greatest number of marks of a line that can be pointed at."""
FAINT = 0.35
"""Opacity of the error bars behind paths."""
DENSE = 6
"""In a cloud so many answers on one spot, or more, look the same."""


def _on(rows: Sequence[Row]) -> alt.Chart:
    return alt.Chart(alt.Data(values=tuple(rows)))  # Altair copies lists deeply, over and over


def _known(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["y"] is not None]


RAW = alt.Color("colour:N", scale=None)
"""The colour that a row names, without a legend."""
PART = alt.Description("part:N")
TOLD = {"description": alt.Description("told:N"), "tooltip": alt.Tooltip("told:N")}


def _tooltip(drawing: Drawing) -> Mapping[str, Any]:
    """Return the channels that tell a number: the page shows it by its own script."""
    return {"description": TOLD["description"]} if drawing.theme.page else TOLD


def whiskers(
    drawing: Drawing, rows: Sequence[Row], colour: Any = RAW, strength: float = 1, **place: Any
) -> list[alt.Chart]:
    """Return the error bars of marks: a line and its two ends."""
    bound = [row for row in _known(rows) if row["low"] is not None and row["high"] is not None]
    if not bound:
        return []
    base = _on(bound).encode(color=colour, description=PART, **place)
    ends = [
        base.mark_tick(orient="horizontal", size=7, thickness=1.3, opacity=1, fillOpacity=strength).encode(
            y=drawing.up(name)
        )
        for name in ("low", "high")
    ]
    return [base.mark_rule(strokeWidth=1.3, strokeOpacity=strength).encode(y=drawing.up("low"), y2="high:Q"), *ends]


def withheld(drawing: Drawing, rows: Sequence[Row], **place: Any) -> list[alt.Chart]:
    """Return the withheld marks: a hollow x on the axis, with the word above."""
    lacking = [row for row in rows if row["y"] is None]
    if not lacking:
        return []
    base = _on(lacking).encode(**({"y": alt.value("height")} | place))
    cross = {"shape": SHAPES["cross"], "size": 62, "fill": drawing.theme.ground, "strokeWidth": 1.3, "opacity": 1}
    word = base.mark_text(text="withheld", angle=270, align="left", dx=8, fontSize=9, color=drawing.theme.soft)
    return [
        word.encode(description=PART),
        base.mark_point(**cross).encode(stroke=alt.Stroke("colour:N", scale=None), **_tooltip(drawing)),
    ]


def guides(drawing: Drawing) -> list[alt.Chart]:
    """Return the dashed lines across a panel."""
    line = _on([{}]).mark_rule(color=drawing.theme.soft, strokeDash=[4, 3])
    return [line.encode(**{"x" if rule.vertical else "y": alt.datum(rule.at)}) for rule in drawing.panel.rules]


def points(drawing: Drawing) -> list[alt.Chart]:
    """Return markers with error bars over categories, and the single runs behind a mean as dots."""
    rows, panel, place = drawing.rows(), drawing.panel, {"x": drawing.at, "xOffset": drawing.beside}
    marks = [m for s in panel.series for m in s.marks]
    dots = [row | {"y": dot} for row, mark in zip(rows, marks, strict=True) for dot in mark.dots]
    whole = _on(_known(rows)).encode(y=drawing.up(), **place)
    out = [*whiskers(drawing, rows, **place)]
    if dots:
        single = _on(dots).mark_circle(size=11, opacity=0.5, xOffset=6)
        out.append(single.encode(y=drawing.up(), color=RAW, description=PART, **place))
    out.append(
        whole.mark_point(filled=True, size=58, opacity=1).encode(
            color=drawing.colours, shape=drawing.shapes, **_tooltip(drawing)
        )
    )
    if panel.pooled_first:
        past = drawing.gap / 2 * (drawing.width - 70) / len(panel.x.categories)
        line = _on([{"x": panel.x.categories[0]}]).mark_rule(color=drawing.theme.rule, strokeWidth=1, xOffset=past)
        at = drawing.at
        at.bandPosition = 1
        out.append(line.encode(x=at))
    return [*out, *withheld(drawing, rows, **place)]


def bars(drawing: Drawing) -> list[alt.Chart]:
    """Return grouped bars with error bars over categories."""
    rows, place = drawing.rows(), {"x": drawing.at, "xOffset": drawing.beside}
    looks = [(label, STRENGTH[look.dash]) for label, look in drawing.looks.items()]
    strength = alt.Opacity("series:N", scale=scale(looks), legend=drawing.keys)
    ink = alt.value(drawing.theme.ink)
    body = _on([row | {"zero": 0.0} for row in _known(rows)]).encode(y=drawing.up(), **place)
    return [
        body.mark_bar().encode(color=drawing.colours, opacity=strength, y2="zero:Q", **_tooltip(drawing)),
        *whiskers(drawing, rows, ink, **place),
        body.mark_circle(size=16, opacity=1).encode(color=ink, description=PART),
        _on([{}]).mark_rule(color=drawing.theme.rule).encode(y=alt.datum(0)),
        *withheld(drawing, rows, **place),
    ]


def stacked(drawing: Drawing) -> list[alt.Chart]:
    """Return one bar per category: the shares of one whole, with those above 6 % as text."""
    rows, reached = drawing.rows(), dict.fromkeys(drawing.panel.x.categories, 0.0)
    for row in _known(rows):
        row["from"] = reached[row["x"]]
        reached[row["x"]] += row["y"]
        row |= {"to": reached[row["x"]], "middle": row["from"] + row["y"] / 2, "text": f"{100 * row['y']:.0f}%"}
    base = _on(_known(rows)).encode(x=drawing.at)
    body = base.mark_bar(stroke=drawing.theme.ground, strokeWidth=1)
    large = _on([row for row in _known(rows) if row["y"] >= 0.06]).encode(x=drawing.at)
    text = large.mark_text(fontSize=10, color=drawing.theme.ground)
    limits = (0.0, 1.02)
    return [
        body.encode(y=drawing.up("from", limits), y2="to:Q", color=drawing.colours, **_tooltip(drawing)),
        text.encode(y=drawing.up("middle", limits), text="text:N", description=PART),
        *withheld(drawing, rows, x=drawing.at),
    ]


def lines(drawing: Drawing) -> list[alt.Chart]:
    """Return lines through their marks, in the marks' order, with their bands. A line breaks at a withheld number."""
    rows, panel = drawing.rows(), drawing.panel
    steps = [row["x"] for row in rows]
    low, high = min([0.0, *steps]), max([0.0, *steps])
    ends = [low, high if high > low else low + 1]
    least = 1 if all(float(step).is_integer() for step in steps) else alt.Undefined
    axis = alt.Axis(title=panel.x.label or None, tickMinStep=least, tickCount=6)
    place = {"x": alt.X("x:Q", scale=alt.Scale(domain=ends, nice=False), axis=axis)}
    named = [row | {"part": drawing.tag(panel.series[row["k"]])} for row in rows]
    banded = [row | ({} if row["y"] is not None else {"low": None, "high": None}) for row in named]
    dashes = [(label, DASH[look.dash]) for label, look in drawing.looks.items()]
    band = _on(banded).mark_area(fillOpacity=0.16, invalid="break-paths-show-domains")
    line = _on(named).mark_line(strokeWidth=1.7, invalid="break-paths-show-domains")
    shown = [row for row in _known(rows) if len(panel.series[row["k"]].marks) < 25]
    told = [row for row in _known(rows) if not _skipped(row, drawing)]
    out = [
        band.encode(y=drawing.up("low"), y2="high:Q", color=RAW, detail="series:N", description=PART, **place),
        line.encode(
            y=drawing.up(),
            color=drawing.colours,
            strokeDash=alt.StrokeDash("series:N", scale=scale(dashes), legend=drawing.keys),
            order=alt.Order("n:Q"),
            description=PART,
            **place,
        ),
    ]
    if shown:
        dots = _on(shown).mark_point(filled=True, size=36, opacity=1)
        out.append(
            dots.encode(y=drawing.up(), color=RAW, shape=alt.Shape("shape:N", scale=None), description=PART, **place)
        )
    target = (
        _on(told)
        .mark_circle(size=110, fillOpacity=0, opacity=1)
        .encode(y=drawing.up(), color=RAW, **_tooltip(drawing), **place)
    )
    return [*out, target, *withheld(drawing, rows, **place)]


def _skipped(row: Row, drawing: Drawing) -> bool:
    """Return whether a mark of a long line cannot be pointed at."""
    marks = drawing.panel.series[row["k"]].marks
    every = -(-len(marks) // HIT)
    before = sum(len(s.marks) for s in drawing.panel.series[: row["k"]])
    return bool((row["n"] - drawing.first - before) % every)


def cloud(drawing: Drawing) -> list[alt.Chart]:
    """Return every answer as a dot: one path for each count of answers on one spot."""
    panel, theme = drawing.panel, drawing.theme
    (series,) = panel.series
    paths: dict[int, list[Row]] = {}
    for x, y, n in series.cloud:
        kind = min(n, DENSE)
        spot = {"x": x, "y": y, "n": kind, "opacity": round(1 - panel.fade**kind, 2)}
        paths.setdefault(kind, []).extend([spot, spot | {"x": x + 0.01}, spot | {"x": None, "y": None}])
    limits = (-3.0, 103.0)
    place = {"x": alt.X("x:Q", **axis_of(panel.x, limits)), "y": drawing.up(limits=limits)}
    rows = [row | {"turn": turn} for turn, row in enumerate(r for kind in paths.values() for r in kind)]
    dots = _on(rows).mark_line(
        aria=False,
        strokeCap="round",
        strokeWidth=4.2,
        color=theme.colour(series.look),
        invalid="break-paths-show-domains",
    )
    out = []
    if panel.shade:
        x0, x1, y0, y1 = panel.shade
        corner = _on([{"x": x0, "x2": x1, "y": y0, "y2": y1}]).mark_rect(color=theme.bad, opacity=0.09)
        out.append(corner.encode(x2="x2:Q", y2="y2:Q", **place))
    strength = alt.Opacity("opacity:Q", scale=None)
    return [*out, dots.encode(detail="n:N", opacity=strength, order="turn:Q", **place)]


def heat(drawing: Drawing) -> list[alt.Chart]:
    """Return rows × columns of numbers. A withheld number is an empty cell with a dashed edge."""
    panel, theme, rows = drawing.panel, drawing.theme, drawing.rows()
    for row in rows:
        share = 0.0 if row["y"] is None else row["y"] / (panel.top or 1.0)
        text = row["word"] or "withheld" if row["y"] is None else f"{100 * row['y']:.1f}"
        row |= {"share": round(share, 3), "text": text}
        row["ink"] = theme.ground if share > 0.6 else theme.ink
    flat = {"domain": False, "ticks": False, "labelPadding": 6}
    across = alt.Axis(title=panel.x.label or None, labelAngle=label_angle(panel, drawing.width), **flat)
    up = alt.Axis(title=panel.y.label or None, grid=False, **flat)
    place = {
        "x": alt.X("x:O", scale=alt.Scale(domain=list(panel.x.categories)), axis=across),
        "y": alt.Y("row:O", scale=alt.Scale(domain=list(reversed(panel.y.categories))), axis=up),
    }
    out = []
    for lacking in (False, True):
        own = [row for row in rows if (row["y"] is None) == lacking]
        edge = {"stroke": theme.rule, "strokeDash": [3, 3]} if lacking else {"stroke": theme.ground}
        box = _on(own).mark_rect(strokeWidth=1, **edge)
        fill = alt.FillOpacity("share:Q", scale=None)
        text = _on(own).mark_text(fontSize=8 if lacking else 10.5)
        if own:
            out.append(
                box.encode(fill=alt.Fill("colour:N", scale=None), fillOpacity=fill, **_tooltip(drawing), **place)
            )
            out.append(text.encode(text="text:N", color=alt.Color("ink:N", scale=None), description=PART, **place))
    return out


def _paths(drawing: Drawing, rows: Sequence[Row], across: alt.X) -> list[alt.Chart]:
    """Return a line through the marks of each series of a plane, in their order, and the words beside the marks.

    A line breaks at a withheld number. Each series has its words in another corner of its marks than the next one.
    """
    joined = [row | ({"y": None} if row["x"] is None else {}) for row in rows]
    line = _on(joined).mark_line(strokeWidth=1.4, opacity=0.8, invalid="break-paths-show-domains")
    place = {"x": across, "y": drawing.up(), "color": RAW, "description": PART}
    out = [line.encode(detail="series:N", order=alt.Order("n:Q"), **place)]
    for corner, (right, up) in enumerate(((True, True), (False, False), (True, False), (False, True))):
        own = [row for row in _known(joined) if row["word"] and row["k"] % 4 == corner]
        at = {"align": "left" if right else "right", "dx": 7 if right else -7, "dy": -8 if up else 10}
        if own:
            out.append(_on(own).mark_text(fontSize=10, fontWeight="bold", **at).encode(text="word:N", **place))
    return out


def plane(drawing: Drawing) -> list[alt.Chart]:
    """Return markers with error bars in both directions; a third number is the marker's size."""
    panel, rows = drawing.panel, drawing.rows()
    marks = [m for s in panel.series for m in s.marks]
    known_x = [v for m in marks for v in (m.x, m.x_low, m.x_high) if v is not None]
    limits = axis_of(panel.x, extent(known_x, share=False) if panel.path else (-0.03, 1.03))
    across = alt.X("x:Q", **limits)
    for row, mark in zip(rows, marks, strict=True):
        radius = 4.2 if mark.size is None else 4 + 6 * mark.size
        row |= {"left": mark.x_low, "right": mark.x_high, "size": (2 * radius) ** 2}
    known = [row for row in _known(rows) if row["x"] is not None]
    sideways = [row for row in known if row["left"] is not None and row["right"] is not None]
    strength = FAINT if panel.path else 1
    out = whiskers(drawing, known, strength=strength, x=across)
    if sideways:
        left = alt.X("left:Q", **limits)
        bar = _on(sideways).mark_rule(strokeWidth=1.3, strokeOpacity=strength)
        out.append(bar.encode(x=left, x2="right:Q", y=drawing.up(), color=RAW, description=PART))
    out += _paths(drawing, rows, across) if panel.path else []
    marker = _on(known).mark_point(filled=True, opacity=0.85)
    size = alt.Size("size:Q", scale=None)
    out.append(
        marker.encode(
            x=across, y=drawing.up(), size=size, color=drawing.colours, shape=drawing.shapes, **_tooltip(drawing)
        )
    )
    below = [row for row in rows if row["y"] is None and row["x"] is not None]
    beside = [row | {"y": None, "height": row["y"]} for row in rows if row["x"] is None and row["y"] is not None]
    corner = [row for row in rows if row["x"] is None and row["y"] is None]
    out += withheld(drawing, below, x=across)
    out += withheld(drawing, beside, x=alt.value(0), y=drawing.up("height"))
    return [*out, *withheld(drawing, corner, x=alt.value(0))]
