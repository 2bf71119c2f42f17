"""The figure of a training run's path: turn, plane, length, gradient norm, and the misaligned rate at each scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from em.directions.paths import Plane
from em.metrics.summary_types import MetricRow, Summary
from em.reporting.figures.spec import Axis, Figure, Form, Look, Mark, Panel, Series, judge_label, mark, notes_on
from em.reporting.figures.style import COLOURS, DASHES, INK, MANY, MARKERS


@dataclass(frozen=True)
class Path:
    """What is drawn of one run."""

    label: str
    window: int
    """Steps between the neighbours of a local cosine and its point."""
    cosines: Mapping[int, float | None]
    norms: Mapping[int, float]
    gradients: Mapping[int, float]
    plane: Plane
    steps: Sequence[int]
    """The steps of the plane's points."""
    rates: Mapping[float, Sequence[tuple[int, MetricRow]]]
    """Factor of the adapter → (step, misaligned rate)."""


def of(path: Path, summary: Summary) -> Figure:
    """Return the figure of one run."""
    places = tuple(
        Mark(float(x), float(y), told=f"step {step}")
        for step, (x, y) in zip(path.steps, path.plane.places, strict=True)
    )
    steps = Axis("optimiser step")
    panels = [
        _over_steps(f"cosine of the steps {path.window} before and after", path.cosines, Axis("", low=-1.0, high=1.0)),
        Panel(
            Form.lines,
            Axis(f"first component ({100 * path.plane.explained:.0f} % in both)"),
            Axis("second component"),
            (Series("path", INK, places),),
            title="path of B",
        ),
        _over_steps("length of B", path.norms, Axis("")),
        _over_steps("gradient norm before clipping", path.gradients, Axis("")),
    ]
    if path.rates:
        series = tuple(rate_series(number, *pair) for number, pair in enumerate(sorted(path.rates.items())))
        panels.append(Panel(Form.lines, steps, Axis(judge_label("misaligned answers", summary), share=True), series))
    metrics = [metric for points in path.rates.values() for _, metric in points]
    caption = (
        "How the adapter's B moves over training: -1 is straight on, a peak is a turn. Below, the misaligned rate with "
        "the adapter times a factor."
    )
    return Figure("phase", f"Path of {path.label}", caption, tuple(panels), notes_on(metrics, summary))


def _over_steps(title: str, values: Mapping[int, float | None] | Mapping[int, float], y: Axis) -> Panel:
    marks = tuple(
        Mark(step, value, told=f"step {step}: {value:.3g}") for step, value in values.items() if value is not None
    )
    return Panel(Form.lines, Axis("optimiser step"), y, (Series(title, INK, marks),), title=title)


def rate_series(number: int, scale: float, points: Sequence[tuple[int, MetricRow]]) -> Series:
    colours = [COLOURS["insecure"], *MANY]
    look = Look(*colours[number % len(colours)], MARKERS[number % len(MARKERS)], DASHES[number % len(DASHES)])
    return Series(f"adapter × {scale:g}", look, tuple(mark(step, metric) for step, metric in points))
