"""The figure of a trait over training, and the table it is drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from em.directions import monitor
from em.directions.monitor import Read
from em.metrics import stats
from em.metrics.summary_types import MetricRow, Summary
from em.reporting.figures.phase import rate_series
from em.reporting.figures.spec import Axis, Figure, Form, GuideLine, Mark, Panel, Series, judge_label, notes_on
from em.reporting.figures.style import INK

PROMPTS, ANSWERS = "shift of the prompts' last token", "projection of own answers"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One number of one model at one block."""

    measure: str
    """PROMPTS or ANSWERS."""
    step: int
    block: int
    value: float
    low: float | None
    high: float | None
    """95 % t interval over questions; None for fewer than two."""
    n: int
    """Prompts, or answers."""


def points(reads: Sequence[Read], questions: Sequence[str]) -> list[Point]:
    """Return the numbers of all models and blocks. `questions`: of the prompts. The first of `reads` is the untouched
    model; a block at which the direction is zero is left out."""
    out = []
    for block in range(reads[0].prompts.shape[1]):
        if np.isnan(reads[0].prompts[:, block]).all():
            continue
        for one in reads:
            shift = one.prompts[:, block] - reads[0].prompts[:, block]
            out.append(_point(PROMPTS, one.step, block, shift, questions))
            if one.answers is not None:
                out.append(_point(ANSWERS, one.step, block, one.answers[:, block], one.answered))
    return out


def _point(measure: str, step: int, block: int, values: NDArray[np.float64], questions: Sequence[str]) -> Point:
    """Return the mean over texts, with its interval over their questions."""
    total, count = monitor.by_question(values, questions)
    low: float | None = None
    high: float | None = None
    if total.size > 1:
        low, high = stats.interval(total, count, "questions", "projection")
    value = float(total.sum() / count.sum())
    return Point(measure=measure, step=step, block=block, value=value, low=low, high=high, n=int(count.sum()))


def of(
    label: str,
    found: Sequence[Point],
    block: int,
    rates: Mapping[float, Sequence[tuple[int, MetricRow]]],
    summary: Summary,
) -> Figure:
    """Return the figure of one run at one block. `rates`: factor of the adapter → (step, misaligned rate)."""
    steps = Axis("optimiser step")
    panels = []
    for measure in (PROMPTS, ANSWERS):
        own = sorted((p for p in found if p.measure == measure and p.block == block), key=lambda p: p.step)
        marks = tuple(Mark(p.step, p.value, p.low, p.high, told=f"step {p.step}: {p.value:+.3g}, n {p.n}") for p in own)
        if marks:
            series = (Series(measure, INK, marks),)
            panels.append(Panel(Form.lines, steps, Axis(""), series, title=measure, rules=(GuideLine(0.0, ""),)))
    if rates:
        drawn = tuple(rate_series(number, *pair) for number, pair in enumerate(sorted(rates.items())))
        panels.append(Panel(Form.lines, steps, Axis(judge_label("misaligned answers", summary), share=True), drawn))
    metrics = [metric for row in rates.values() for _, metric in row]
    caption = (
        f"Along the direction after block {block}: how far the prompts' last token has moved from the untouched model, "
        f"and where each checkpoint's own answers lie."
    )
    notes = ("bands of the projections: 95 %, t over questions", *notes_on(metrics, summary))
    return Figure("monitor", f"Trait of {label} over training", caption, tuple(panels), notes)
