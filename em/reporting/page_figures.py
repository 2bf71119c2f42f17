"""Figures inside a page: each panel is an SVG whose shapes name their mark, so that a script can tell its number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from em.reporting.figures.spec import Figure, Form, Mark, Panel

if TYPE_CHECKING:
    from markupsafe import Markup

    from em.reporting.figures.chart import Size

WHOLE, HALF, GAP = 1090.0, 515.0, 18.0
"""Width inside a card over the whole page and over half of it, and between panels, in pixels."""
PHONE = 340.0
"""Least width of a drawing, in pixels."""
LOW = 150.0
"""Height of the plot of the first figure: the first screen has room for the table below."""
_TAG = re.compile(r'aria-label="§(\d+):(\d*)§([^"]*)"')
_IDLE = re.compile(
    r' aria-roledescription="[^"]*"| role="graphics-(?:symbol|object)"| pointer-events="none"| class="mark-[^"]*"'
    r'|<path class="(?:background|foreground)" aria-hidden="true" d="(?:M0,0h0v0h0Z)?"[^>]*/>'
    r'|<rect [^>]*fill="transparent"/>'
)
"""What Vega writes and nothing reads here."""


@dataclass(frozen=True)
class DrawnPanel:
    """One panel: its title, the line below it, its drawing, and for a wide one a second drawing for a phone."""

    title: str
    below: str
    svg: Markup
    width: float
    narrow: Markup | None
    narrow_width: float


def texts(figure: Figure) -> Mapping[str, Any]:
    """Return what a template shows around a figure: its texts, its legend, and its numbers as table rows."""
    from em.reporting.figures.chart import looks_of
    from em.reporting.figures.drawing import DASH, SHAPES, STRENGTH

    form = figure.panels[0].form
    rows = [
        {"panel": panel.title, "series": series.label, "at": _place(panel, mark), "told": mark.told}
        for panel in figure.panels
        for series in panel.series
        for mark in series.marks
    ]
    keys = [
        {
            "label": label,
            "look": look,
            "line": form == Form.lines,
            "dash": " ".join(map(str, DASH[look.dash])),
            "path": SHAPES["square" if form in (Form.bars, Form.stacked) else look.marker],
            "strength": STRENGTH[look.dash] if form == Form.bars else 1,
        }
        for label, look in looks_of(figure).items()
    ]
    return {
        "name": figure.name,
        "title": figure.title,
        "caption": figure.caption,
        "notes": [n.replace("see the report for why", "the table below says why") for n in figure.notes],
        "wide": is_wide(figure),
        "paneled": len({p.title for p in figure.panels}) > 1,
        "across": figure.panels[0].x.label,
        "keys": keys,
        "rows": [] if form == Form.lines and len(rows) > 400 else rows,
    }


def is_wide(figure: Figure) -> bool:
    """Return whether a figure takes the whole width of the page."""
    return len(figure.panels) > 1 or any(len(p.x.categories) * len(p.series) > 18 for p in figure.panels)


def data(figure: Figure) -> Mapping[str, Any]:
    """Return what the page's script needs: the labels of the series, and the answers behind each mark."""
    labels = dict.fromkeys(s.label for p in figure.panels for s in p.series)
    return {"series": list(labels), "answers": [mark.answers or None for mark in figure.marks()]}


def drawn(figure: Figure, *, wide: bool | None = None, low: bool = False) -> list[DrawnPanel]:
    """Return the panels of a figure. `wide`: over the whole page (None: if it asks for it); `low`: a low plot."""
    from em.reporting.figures import chart, drawing

    room = WHOLE if (is_wide(figure) if wide is None else wide) else HALF
    natural = [chart.natural(panel) for panel in figure.panels]
    columns = min(chart.columns_of(figure), max(1, int(room // 250)))
    each = (room - GAP * (columns - 1)) / columns
    sizes = [
        replace(size, width=_width(panel, size.width, each)) for panel, size in zip(figure.panels, natural, strict=True)
    ]
    if low:
        sizes = [
            replace(s, height=LOW + drawing.label_room(p, s.width)) for p, s in zip(figure.panels, sizes, strict=True)
        ]
    whole = _svgs(figure, sizes)
    small = [
        replace(n, width=max(PHONE, n.width)) if s.width > HALF else s for n, s in zip(natural, sizes, strict=True)
    ]
    narrow = _svgs(figure, small) if small != sizes else [None] * len(sizes)
    return [
        DrawnPanel(
            title=panel.title,
            below=panel.series[0].label if panel.form == Form.cloud else "",
            svg=svg,
            width=size.width,
            narrow=other if less.width < size.width else None,
            narrow_width=less.width,
        )
        for panel, svg, size, other, less in zip(figure.panels, whole, sizes, narrow, small, strict=True)
    ]


def _svgs(figure: Figure, sizes: Sequence[Size]) -> list[Markup]:
    """Return the drawings of a figure's panels. They are our own: Vega has escaped every label and number in them."""
    import vl_convert
    from markupsafe import Markup

    from em.reporting.figures import chart, drawing

    with chart.unchecked():
        specs = [chart.spec(made) for made in chart.panel_charts(figure, sizes, drawing.PAGE, None)]
    texts = [vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]) for spec in specs]
    return [Markup(_tagged(text, panel)) for text, panel in zip(texts, figure.panels, strict=True)]


def _width(panel: Panel, natural: float, room: float) -> float:
    """Return the width of a panel: the room, but a cloud is square, and cells and many marks have their own width."""
    if panel.form == Form.cloud:
        return min(room, 290.0)
    if panel.form == Form.heat:
        return min(room, max(natural, 0.8 * room)) if len(panel.x.categories) > 3 else min(room, natural + 90)
    return max(room, min(natural, 2400.0)) if panel.form in (Form.points, Form.bars, Form.stacked) else room


def _tagged(text: str, panel: Panel) -> str:
    """Return a drawing of Vega as an element of the page: no empty parts, and the marks by number.

    Vega has escaped every label and number in it.
    """
    from markupsafe import escape

    def named(found: re.Match[str]) -> str:
        series, number, told = found.groups()
        parts = [
            f'data-series="{series}"',
            f'data-mark="{number}"' if number else "",
            f'aria-label="{told}"' if told else "",
        ]
        return " ".join(part for part in parts if part)

    about = ", ".join(part for part in (panel.title, panel.y.label, panel.x.label) if part)
    keys = "One dot an answer." if panel.form == Form.cloud else "Arrow keys read the numbers."
    head = f'<svg class="plot" tabindex="0" role="group" aria-label="{escape(f"{about}. {keys}")}" width='
    return re.sub(r"^<svg [^>]*?width=", lambda _: head, _TAG.sub(named, _IDLE.sub("", text)), count=1)


def _place(panel: Panel, mark: Mark) -> str:
    """Return the position of a mark in words."""
    if mark.x is None:
        return "withheld"
    across = panel.x.categories[int(mark.x)] if panel.x.categories else f"{mark.x:g}"
    return f"{panel.y.label} {panel.y.categories[mark.row]}, {across}" if mark.row is not None else across
