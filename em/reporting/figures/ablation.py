"""The ablation matrix: the misaligned rate of each model (columns) without each model's direction (rows)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from em.metrics.summary_types import Facts, MetricRow, Summary
from em.reporting.figures.select import FigureGroup, figure_groups, headline
from em.reporting.figures.spec import Axis, Figure, Form, Look, Mark, Panel, Series, judge_label, notes_on
from em.reporting.figures.style import COLOURS
from em.reporting.text import in_words

MEASURES = {"misaligned_rate": ("misaligned answers", "insecure"), "coherent_share": ("coherent answers", "secure")}
AS_IT_IS, CONTROL = "nothing removed", "random (control)"
OWN = ("direction=", "kind=", "organism=", "random=", "block=", "where=", "plus=", "minus=", "path=", "least=")
"""Starts of the words of a label that say what is removed."""


@dataclass(frozen=True)
class _Cell:
    """One group of the matrix."""

    group: FigureGroup
    column: str
    row: str
    place: str
    """Block and where it is removed; "": nothing is."""


def matrix(summary: Summary) -> Figure | None:
    """Return heat maps of the misaligned rate and of coherence, a pair for each block; None without ablated models."""
    cells = [cell for group in figure_groups(summary) if (cell := _cell(group))]
    ablated = [cell for cell in cells if cell.place]
    asked = headline([cell.group for cell in ablated])
    if not ablated or asked is None:
        return None
    panels, metrics = [], []
    for place in dict.fromkeys(cell.place for cell in ablated):
        columns = list(dict.fromkeys(c.column for c in ablated if c.place == place))
        own = [c for c in cells if c.place in ("", place) and c.column in columns]
        for name, (label, colour) in MEASURES.items():
            shown = [(c, c.group.metric(name, question_id=None, category=None, **asked)) for c in own]
            metrics += [metric for _, metric in shown if metric is not None]
            series = Series(judge_label(label, summary), Look(*COLOURS[colour]))
            panels.append(_heat(shown, columns, series, f"without the vector {place}"))
    caption = (
        "A direction (rows) is removed from each model (columns). A direction repairs a model if its rate falls below "
        "that with nothing removed, further than with a random one, and the answers stay coherent."
    )
    return Figure("ablation_matrix", "Directions removed", caption, tuple(panels), notes_on(metrics, summary))


def _cell(group: FigureGroup) -> _Cell | None:
    """Return a group's place in the matrix; None for a model that is changed in another way too."""
    changed: Facts = group.row.get("facts", {}).get("changed", {})
    if set(changed) - {"ablate"}:
        return None
    ablate = changed.get("ablate")
    words = group.label.removeprefix(str(group.row["variant"])).split(" ")
    others = [word for word in words if "=" in word and not word.startswith(OWN)]
    column = " ".join([group.row["variant"] or "untouched", *others])
    if ablate is None:
        return _Cell(group, column, AS_IT_IS, "")
    place = "of each block" if ablate["block"] is None else f"of block {ablate['block']}, {ablate['where']}"
    return _Cell(group, column, ablate["direction"], place)


def _heat(shown: Sequence[tuple[_Cell, MetricRow | None]], columns: Sequence[str], empty: Series, title: str) -> Panel:
    named = dict.fromkeys(cell.row for cell, _ in shown)
    rows = sorted(named, key=lambda row: (row != AS_IT_IS, row.startswith("random")))
    rows.reverse()  # the first row of a heat map is its lowest
    marks = [
        Mark(
            columns.index(cell.column),
            metric["value"],
            metric["low"],
            metric["high"],
            row=rows.index(cell.row),
            told=f"{cell.column}, {cell.row}: {in_words(metric)}",
        )
        for cell, metric in shown
        if metric is not None
    ]
    randoms = [row for row in rows if row.startswith("random")]
    said = tuple(CONTROL if randoms == [row] else row for row in rows)
    axes = Axis("model", tuple(columns)), Axis("", said)
    series = replace(empty, marks=tuple(marks))
    return Panel(Form.heat, *axes, (series,), title=f"{series.label}, {title}", top=1.0)
