"""Draw figures as PNG and SVG on a white ground: matplotlib without pyplot or a display."""

from __future__ import annotations

import io
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator

from em.reporting.figures.spec import Figure, Form, Look, Mark, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes


RC = {
    "svg.hashsalt": "em",
    "text.parse_math": False,  # a label with dollar signs is a label
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.edgecolor": "#555555",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
MARKERS = {
    "circle": "o",
    "square": "s",
    "triangle": "^",
    "diamond": "D",
    "down": "v",
    "pentagon": "p",
    "cross": "X",
    "plus": "P",
}
STRENGTH = {"solid": 1.0, "dashed": 0.65, "dotted": 0.45, "dashdot": 0.3}
"""Opacity of a bar by dash: settings of one variant share the colour."""
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.10g}%")
WIDTH = 16.0
"""Greatest width of a figure, in inches."""
SMALL = {Form.cloud: 4, Form.heat: 3, Form.plane: 2, Form.lines: 2}
"""Greatest number of panels side by side, by form."""


def save(figure: Figure, folder: Path) -> list[Path]:
    """Write <name>.png and <name>.svg. The same figure gives the same bytes."""
    files = [folder / f"{figure.name}.{kind}" for kind in ("png", "svg")]
    with matplotlib.rc_context(RC):
        canvas = render(figure)
        canvas.savefig(files[0], dpi=150)
        canvas.savefig(files[1], dpi=150, metadata={"Date": None})
    return files


class Shown(Canvas):
    """A figure that a notebook shows, which matplotlib's own is only if pyplot made it."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        with matplotlib.rc_context(RC):
            self.savefig(file, format="png", dpi=100)
        return file.getvalue()


def shown(figure: Figure) -> Canvas:
    """Return the figure as an object for a notebook, drawn as the files are."""
    with matplotlib.rc_context(RC):
        return render(figure)


def render(figure: Figure) -> Canvas:
    """Return the figure on a matplotlib canvas."""
    columns = min(len(figure.panels), SMALL.get(figure.panels[0].form, 2 if _narrow(figure) else 1))
    rows = math.ceil(len(figure.panels) / columns)
    sizes = [_size(p) for p in figure.panels]
    width = min(WIDTH, max(5.0, columns * max(w for w, _ in sizes)))
    legend = math.ceil(len(_looks(figure)) / _columns(figure, width))
    height = rows * max(h for _, h in sizes) + 0.4 + 0.21 * max(2, legend)
    canvas = Shown(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(canvas)
    grid = canvas.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[len(figure.panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid, figure.panels, strict=False):
        _panel(axes, panel, canvas)
    _legend(canvas, figure)
    text = "\n".join(textwrap.fill(line, int(width * 16)) for line in figure.notes)
    canvas.supxlabel(text, fontsize=7.5, color="#444444")
    return canvas


def _narrow(figure: Figure) -> bool:
    return all(len(p.x.categories) <= 6 for p in figure.panels)


def _size(panel: Panel) -> tuple[float, float]:
    """Return width and height of a panel, in inches."""
    if panel.form in (Form.points, Form.bars, Form.stacked):
        each = {Form.points: 0.35 + 0.1 * len(panel.series), Form.bars: 0.6 + 0.12 * len(panel.series)}
        step = each.get(panel.form, 0.75)
        return max(4.5, 2.0 + step * len(panel.x.categories)), 3.9
    if panel.form == Form.heat:
        return max(3.6, 1.8 + 0.62 * len(panel.x.categories)), max(2.4, 1.2 + 0.36 * len(panel.y.categories))
    return (2.9, 2.9) if panel.form == Form.cloud else (4.6, 3.5)


def _panel(axes: Axes, panel: Panel, canvas: Canvas) -> None:
    draw = {
        Form.points: _points,
        Form.bars: _bars,
        Form.stacked: _stacked,
        Form.lines: _lines,
        Form.cloud: _cloud,
        Form.heat: _heat,
        Form.plane: _plane,
    }
    draw[panel.form](axes, panel)
    title = panel.title
    if panel.form == Form.cloud:
        title += f"\n{panel.series[0].label}"
    axes.set_title(title)
    axes.set_xlabel(panel.x.label)
    axes.set_ylabel(panel.y.label)
    for rule in panel.rules:
        (axes.axvline if rule.vertical else axes.axhline)(rule.at, color="#333333", linewidth=0.8, linestyle="--")
    if panel.shade:
        x0, x1, y0, y1 = panel.shade
        axes.fill_between([x0, x1], y0, y1, color="#b5433a", alpha=0.09, linewidth=0, zorder=0)


def _legend(canvas: Canvas, figure: Figure) -> None:
    """Draw one entry per label, over all panels."""
    looks = _looks(figure)
    if len(looks) < 2:
        return
    form = figure.panels[0].form
    line = form == Form.lines
    shapes = [
        matplotlib.lines.Line2D(
            [],
            [],
            color=look.light,
            linestyle=look.dash if line else "none",
            marker=None if line else "s" if form in (Form.bars, Form.stacked) else MARKERS[look.marker],
            alpha=STRENGTH[look.dash] if form == Form.bars else None,
            label=label,
        )
        for label, look in looks.items()
    ]
    canvas.legend(handles=shapes, loc="outside upper center", ncols=_columns(figure, canvas.get_figwidth()))


def _looks(figure: Figure) -> dict[str, Look]:
    """Return the entries of the legend; {} if the panels name their series."""
    if figure.panels[0].form in (Form.heat, Form.cloud):
        return {}
    return {s.label: s.look for p in figure.panels for s in p.series}


def _columns(figure: Figure, width: float) -> int:
    """Return how many legend entries fit side by side in `width` inches."""
    looks = _looks(figure)
    fit = int(width / (0.6 + 0.08 * max(map(len, looks), default=0)))
    return max(1, min(len(looks), 5, fit))


def place(index: int, of: int, form: Form) -> float:
    """Return the distance of a series' marks from the middle of their category."""
    step = 0.8 / of if form == Form.bars else 0.8 / max(of, 4)
    return (index - (of - 1) / 2) * step


def _points(axes: Axes, panel: Panel) -> None:
    for index, series in enumerate(panel.series):
        for mark in series.marks:
            x = mark.position + place(index, len(panel.series), panel.form)
            _number(axes, x, mark, series.look)
            axes.scatter([x] * len(mark.dots), mark.dots, s=7, color=series.look.light, alpha=0.45, linewidths=0)
    _categories(axes, panel)
    if panel.pooled_first:
        axes.axvline(0.5, color="#bbbbbb", linewidth=0.8)
    _values(axes, panel)


def _number(axes: Axes, x: float, mark: Mark, look: Look) -> None:
    if mark.value is None:
        _withheld(axes, x, look)
        return
    bars = _distances(mark.value, mark.low, mark.high)
    style = {"fmt": MARKERS[look.marker], "markersize": 4.5, "color": look.light}
    _errorbar(axes, x, mark.value, yerr=bars, **style)


def _bars(axes: Axes, panel: Panel) -> None:
    width = 0.8 / len(panel.series)
    for index, series in enumerate(panel.series):
        for mark in series.marks:
            x = mark.position + place(index, len(panel.series), panel.form)
            if mark.value is None:
                _withheld(axes, x, series.look)
                continue
            axes.bar(x, mark.value, width * 0.92, color=series.look.light, alpha=STRENGTH[series.look.dash])
            bars = _distances(mark.value, mark.low, mark.high)
            _errorbar(axes, x, mark.value, yerr=bars, fmt="o", markersize=2, color="#222222")
    axes.axhline(0, color="#555555", linewidth=0.8)
    _categories(axes, panel)
    _values(axes, panel)


def _stacked(axes: Axes, panel: Panel) -> None:
    reached = [0.0] * len(panel.x.categories)
    for series in panel.series:
        for mark in series.marks:
            if mark.value is None:
                _withheld(axes, mark.x, series.look)
                continue
            at = int(mark.position)
            axes.bar(at, mark.value, 0.7, reached[at], color=series.look.light, edgecolor="white", linewidth=0.8)
            if mark.value >= 0.06:
                middle = reached[at] + mark.value / 2
                axes.text(at, middle, f"{100 * mark.value:.0f}%", ha="center", va="center", fontsize=7, color="white")
            reached[at] += mark.value
    _categories(axes, panel)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PERCENT)


def _lines(axes: Axes, panel: Panel) -> None:
    for series in panel.series:
        look = series.look
        xs = [m.position for m in series.marks]
        # A withheld value is NaN here, so the line breaks.
        ys, lows, highs = (_column(series.marks, name) for name in ("value", "low", "high"))
        marker = MARKERS[look.marker] if len(xs) < 30 else None
        axes.plot(xs, ys, color=look.light, linestyle=look.dash, marker=marker, markersize=3.5, lw=1.4)
        axes.fill_between(xs, lows, highs, color=look.light, alpha=0.18, lw=0)
        for mark in series.marks:
            if mark.value is None:
                _withheld(axes, mark.x, look)
    steps = [m.position for s in panel.series for m in s.marks]
    if steps:  # matplotlib's own limits leave out withheld points, whose value is NaN
        room = 0.05 * (max(steps) - min(steps)) or 0.5
        axes.set_xlim(min(steps) - room, max(steps) + room)
    locator = axes.xaxis.get_major_locator()
    assert isinstance(locator, MaxNLocator)
    locator.set_params(integer=True)  # a step is a whole number
    _values(axes, panel)


def _column(marks: tuple[Mark, ...], name: str) -> list[float]:
    return [math.nan if getattr(m, name) is None else getattr(m, name) for m in marks]


def _cloud(axes: Axes, panel: Panel) -> None:
    for series in panel.series:
        xs, ys, counts = zip(*series.cloud, strict=True) if series.cloud else ((), (), ())
        alphas = [1 - panel.fade**n for n in counts]
        opacity: Any = alphas or None  # matplotlib's stub knows one number only
        axes.scatter(xs, ys, s=11, alpha=opacity, linewidths=0, color=series.look.light, rasterized=True)
    axes.set_xlim(-4, 104)
    axes.set_ylim(-4, 104)
    _grid(axes, "both")


def _heat(axes: Axes, panel: Panel) -> None:
    (series,) = panel.series
    colours = LinearSegmentedColormap.from_list("heat", ["#ffffff", series.look.light])
    top = panel.top or 1.0
    for mark in series.marks:
        x, row = mark.cell
        corner = (x - 0.5, row - 0.5)
        if mark.value is None:
            axes.add_patch(
                matplotlib.patches.Rectangle(corner, 1, 1, facecolor="white", hatch="////", edgecolor="#bbbbbb", lw=0)
            )
            axes.text(x, row, "withheld", ha="center", va="center", fontsize=6.5)
            continue
        share = mark.value / top
        axes.add_patch(matplotlib.patches.Rectangle(corner, 1, 1, facecolor=colours(share), edgecolor="white", lw=1))
        ink = "white" if share > 0.6 else "#222222"
        axes.text(x, row, f"{100 * mark.value:.1f}", ha="center", va="center", fontsize=7.5, color=ink)
    _categories(axes, panel)
    axes.set_yticks(range(len(panel.y.categories)), panel.y.categories)
    axes.set_ylim(-0.5, len(panel.y.categories) - 0.5)
    axes.set_xlim(-0.5, len(panel.x.categories) - 0.5)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _plane(axes: Axes, panel: Panel) -> None:
    for series in panel.series:
        for mark in series.marks:
            if mark.value is None or mark.x is None:
                _withheld(axes, mark.x, series.look, mark.value)
                continue
            _errorbar(
                axes,
                mark.x,
                mark.value,
                xerr=_distances(mark.x, mark.x_low, mark.x_high),
                yerr=_distances(mark.value, mark.low, mark.high),
                fmt=MARKERS[series.look.marker],
                markersize=6 if mark.size is None else 5 + 8 * mark.size,
                alpha=0.85,
                color=series.look.light,
            )
    axes.set_xlim(-0.04, 1.04)
    axes.xaxis.set_major_formatter(PERCENT)
    _grid(axes, "x")
    _values(axes, panel)


def _errorbar(axes: Axes, x: float, y: float, **style: Any) -> None:
    """Draw a marker with error bars, or without them where `xerr` and `yerr` are None."""
    axes.errorbar([x], [y], capsize=2.5, elinewidth=1.1, capthick=1.1, linestyle="none", **style)


def _grid(axes: Axes, axis: Literal["x", "y", "both"]) -> None:
    axes.grid(axis=axis, linestyle="--", linewidth=0.6, color="#cccccc")


def _distances(value: float, low: float | None, high: float | None) -> list[list[float]] | None:
    """Return the lengths of an error bar, down and up; None if the number has no interval."""
    if low is None or high is None:
        return None
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def _withheld(axes: Axes, x: float | None, look: Look, y: float | None = None) -> None:
    """Draw a hollow x with the word on the x axis, or on the y axis if only `x` is withheld."""
    at = axes.get_yaxis_transform() if x is None and y is not None else axes.get_xaxis_transform()
    spot = (0.0, y) if x is None and y is not None else (0.0 if x is None else x, 0.0)
    axes.scatter(
        [spot[0]],
        [spot[1]],
        marker="X",
        s=34,
        facecolors="white",
        edgecolors=look.light,
        linewidths=1.1,
        transform=at,
        clip_on=False,
        zorder=5,
        label="_withheld",
    )
    axes.annotate(
        "withheld",
        spot,
        xycoords=at,
        xytext=(0, 6),
        textcoords="offset points",
        rotation=90,
        ha="center",
        va="bottom",
        fontsize=6.5,
        color="#333333",
    )


def _values(axes: Axes, panel: Panel) -> None:
    """Set up the y axis: shares from zero in percent, with room for the withheld marks below."""
    marks = [(m.value, m) for s in panel.series for m in s.marks if m.value is not None]
    tops = [v for value, m in marks for v in (value, m.high, *m.dots) if v is not None]
    _grid(axes, "y")
    if not panel.y.share:
        return
    top, bottom = max([0.0, *tops]), min([0.0, *(value if m.low is None else m.low for value, m in marks)])
    room = 0.05 * (top - bottom) + 0.01
    axes.set_ylim(bottom - room, top + max(room, 0.03))
    axes.yaxis.set_major_formatter(PERCENT)


def _categories(axes: Axes, panel: Panel) -> None:
    labels = panel.x.categories
    canvas, cell = axes.get_figure(root=True), axes.get_subplotspec()
    assert canvas is not None and cell is not None  # `render` has put the axes on a grid
    room = canvas.get_figwidth() / cell.get_gridspec().ncols
    long = 0.08 * max(map(len, labels)) > (min(room, _size(panel)[0]) - 1) / len(labels)  # inches
    if long:
        axes.set_xticks(range(len(labels)), labels, rotation=28, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.6, len(labels) - 0.4)
