"""Figures of stored directions: cosines between them and how reliable each is, by block."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from em.directions.artefact import Direction, DirectionError
from em.directions.vectors import cosines
from em.reporting.figures.spec import Axis, Figure, Form, GuideLine, Look, Mark, Panel, Series
from em.reporting.figures.style import DASHES, MANY, MARKERS


def of(directions: Mapping[str, Direction]) -> list[Figure]:
    """Return the figure of the cosines between all pairs, and of each direction's two halves.

    Raises DirectionError if the directions have different shapes.
    """
    shapes = {name: d.vectors.shape for name, d in directions.items()}
    if len(set(shapes.values())) > 1:
        raise DirectionError(f"directions of different models cannot be compared: {shapes}")
    pairs = {
        f"{a} · {b}": cosines(directions[a].vectors, directions[b].vectors) for a, b in combinations(directions, 2)
    }
    halves = {name: list(d.facts.split_half) for name, d in directions.items() if d.facts.split_half}
    panels = [
        _panel("cosine between directions", pairs),
        _panel("cosine of two halves of its texts", halves),
    ]
    shown = tuple(panel for panel in panels if panel.series)
    if not shown:
        return []
    caption = "Cosine of two directions after each block; and of each direction's two halves, its reliability."
    return [Figure("cosines", "Directions by block", caption, shown)]


def _panel(label: str, lines: Mapping[str, list[float | None]]) -> Panel:
    series = []
    for number, (name, values) in enumerate(lines.items()):
        marks = tuple(
            Mark(block, value, told=f"block {block}: {value:.3f}")
            for block, value in enumerate(values)
            if value is not None
        )
        look = Look(*MANY[number % len(MANY)], MARKERS[number % len(MARKERS)], DASHES[number % len(DASHES)])
        series.append(Series(name, look, marks))
    rules = (GuideLine(0.0, ""),)
    return Panel(Form.lines, Axis("block"), Axis(label, low=-1.0, high=1.0), tuple(series), rules=rules)
