"""Figures as Vega-Lite charts, by Altair: the files, the panels of the HTML report and the objects of a notebook.

A withheld number is a hollow x on the axis.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import altair as alt
from altair.utils import schemapi

from em.reporting.figures import layers
from em.reporting.figures.drawing import LETTER, PAPER, Drawing, Theme, label_room, longest
from em.reporting.figures.spec import Figure, Form, Look, Panel

LAYERS: dict[Form, Callable[[Drawing], list[alt.Chart]]] = {
    Form.points: layers.points,
    Form.bars: layers.bars,
    Form.stacked: layers.stacked,
    Form.lines: layers.lines,
    Form.cloud: layers.cloud,
    Form.heat: layers.heat,
    Form.plane: layers.plane,
}
BESIDE = {Form.cloud: 4, Form.heat: 3, Form.plane: 2, Form.lines: 2}
"""Greatest number of panels side by side, by form."""
WIDEST = 1500
"""Greatest width of a file, in pixels."""
LEGEND = 900
"""A file is made so wide for a legend on one line, and no wider."""


UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class Size:
    """Width and height of a panel with its axes, in pixels."""

    width: float
    height: float


def chart(figure: Figure) -> alt.ConcatChart:
    """Return a figure with title, caption, notes and legend, to be shown or restyled in a notebook."""
    columns = columns_of(figure)
    natural_sizes = [natural(panel) for panel in figure.panels]
    asked = max([*(s.width for s in natural_sizes), min(LEGEND, _key_width(figure)) / columns])
    each = min(asked, WIDEST / columns)
    sizes = [Size(each, s.height) for s in natural_sizes]
    drawn = panel_charts(figure, sizes, PAPER, _legend(figure, each * columns))
    wide = int(each * columns / 6.1)
    words = [figure.caption, *(f"{note[:1].upper()}{note[1:]}." for note in figure.notes)]
    title = alt.TitleParams(figure.title, subtitle=[line for text in words for line in textwrap.wrap(text, wide)])
    shared = alt.ScaleResolveMap(color="shared", shape="shared", strokeDash="shared", opacity="shared")
    # all at once: each of Altair's methods on a chart copies every part of it twice
    whole = {"resolve": alt.Resolve(scale=shared), "config": alt.Config(**config(PAPER))}
    return alt.concat(*drawn, columns=columns, spacing=18, title=title, background="white", padding=12, **whole)


@contextmanager
def unchecked() -> Iterator[None]:
    """Make charts without Altair's check of every part against the schema: half of the time, and the same spec.

    Vega-Lite still refuses what it cannot draw. tests/reporting/test_figures.py checks every form.
    """
    with schemapi.debug_mode(False):
        yield


def spec(made: alt.TopLevelMixin) -> Any:
    """Return the Vega-Lite spec of a chart, for vl-convert. A control character, which ends the whole process there,
    is drawn as a replacement character: it can come in with an imported file."""
    return _printable(made.to_dict(validate=schemapi.DEBUG_MODE))


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, dict):
        return {_printable(key): _printable(one) for key, one in value.items()}
    return [_printable(one) for one in value] if isinstance(value, list) else value


def in_notebook(figure: Figure) -> alt.ConcatChart:
    """Return the chart. A notebook shows it as a PNG, which needs no network, unless an Altair renderer was chosen."""
    if alt.renderers.active == "default":
        alt.renderers.enable("png", ppi=144)
    return chart(figure)


def panel_charts(figure: Figure, sizes: Sequence[Size], theme: Theme, keys: alt.Legend | None) -> list[alt.LayerChart]:
    """Return the panels of a figure; on a page without their titles."""
    first, out = 0, []
    looks = _looks(figure)  # of all panels: in one chart they share their scales
    for panel, size in zip(figure.panels, sizes, strict=True):
        drawing = Drawing(panel, size.width, size.height, theme, first=first, looks=looks, keys=keys)
        out.append(_panel_chart(drawing))
        first += sum(len(s.marks) for s in panel.series)
    return out


def _panel_chart(drawing: Drawing) -> alt.LayerChart:
    panel, theme, size = drawing.panel, drawing.theme, Size(drawing.width, drawing.height)
    parts = [*layers.guides(drawing), *LAYERS[panel.form](drawing)]
    if not theme.page:  # beside other panels a size is that of the plot, without its axes
        plot = {"width": size.width - 60, "height": size.height - label_room(panel, size.width)}
        return alt.layer(*parts, **plot, title=_panel_title(panel))
    whole = {"autosize": alt.AutoSizeParams(type="fit", contains="padding"), "config": alt.Config(**config(theme))}
    return alt.layer(*parts, width=size.width, height=size.height, background="transparent", **whole)


def columns_of(figure: Figure) -> int:
    """Return how many panels stand side by side."""
    form = figure.panels[0].form
    narrow = all(len(p.x.categories) <= 6 for p in figure.panels)
    return min(len(figure.panels), BESIDE.get(form, 2 if narrow else 1))


def natural(panel: Panel) -> Size:
    """Return the size that a panel asks for."""
    if panel.form in (Form.points, Form.bars, Form.stacked):
        wide = 80 if panel.form == Form.stacked else 20 + 13 * len(panel.series)
        asked = max(400.0, 90 + wide * len(panel.x.categories))
        return Size(asked, 235 + label_room(panel, asked))
    if panel.form == Form.heat:
        left = 40 + longest(panel.y.categories)
        return Size(max(300, left + 56 * len(panel.x.categories)), 62 + 30 * len(panel.y.categories))
    return Size(300, 300) if panel.form == Form.cloud else Size(430, 320 if panel.form == Form.plane else 290)


def config(theme: Theme) -> Mapping[str, Any]:
    """Return the configuration of a chart: fonts and colours of a ground."""
    return {
        "font": theme.font,
        "view": {"stroke": None},
        "axis": {
            "labelColor": theme.soft,
            "labelFontSize": 11,
            "titleColor": theme.ink,
            "titleFontSize": 11.5,
            "titleFontWeight": "normal",
            "domainColor": theme.rule,
            "tickColor": theme.rule,
            "gridColor": theme.grid,
            "labelLimit": 400,
        },
        "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
        "axisX": {"grid": False, "titlePadding": 8},
        "title": {
            "anchor": "start",
            "color": theme.ink,
            "fontSize": 13,
            "subtitleColor": theme.soft,
            "subtitleFontSize": 11,
            "subtitlePadding": 5,
        },
        "legend": {"labelColor": theme.ink, "labelFontSize": 11.5, "labelLimit": 500, "symbolSize": 70},
    }


def looks_of(figure: Figure) -> dict[str, Look]:
    """Return the entries of the legend; {} if the panels name their series, or if there is one."""
    if figure.panels[0].form in (Form.heat, Form.cloud):
        return {}
    looks = _looks(figure)
    return looks if len(looks) > 1 else {}


def _looks(figure: Figure) -> dict[str, Look]:
    return {s.label: s.look for p in figure.panels for s in p.series}


def _key_width(figure: Figure) -> float:
    """Return the width of the legend on one line, in pixels."""
    looks = looks_of(figure)
    return len(looks) * (34 + LETTER * max(map(len, looks), default=0))


def _legend(figure: Figure, width: float) -> alt.Legend | None:
    """Return a legend above the panels, on as few lines as fit; None if no series must be told apart."""
    looks, form = looks_of(figure), figure.panels[0].form
    if not looks:
        return None
    rows = math.ceil(_key_width(figure) / width)
    shown = {"symbolType": "stroke", "symbolStrokeWidth": 2} if form == Form.lines else {}
    strength = {} if form == Form.bars else {"symbolOpacity": 1}
    columns = math.ceil(len(looks) / rows)
    return alt.Legend(orient="top", title=None, columns=columns, offset=8, **shown, **strength)


def _panel_title(panel: Panel) -> alt.TitleParams:
    lines: Sequence[str] = [panel.title, *([panel.series[0].label] if panel.form == Form.cloud else [])]
    return alt.TitleParams([line for line in lines if line] or "", fontSize=11.5, offset=8)
