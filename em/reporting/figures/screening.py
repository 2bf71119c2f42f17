"""The figure of a screening: the scores of each dataset's rows in order, and the summary that it is drawn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from em.directions.artefact import Direction
from em.directions.projections import Row
from em.metrics import stats
from em.reporting.figures.spec import Axis, Figure, Form, GuideLine, Look, Mark, Panel, Series
from em.reporting.figures.style import DASHES, MANY, MARKERS

POINTS = 101
"""Places of a curve: percentiles 0 to 100."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One dataset in numbers. Scores are projections, in units of the stream."""

    dataset: str
    direction: str
    block: int
    reference: str
    """own: minus the untouched model's own answer; none: the row's answer alone."""
    rows: int
    scored: int
    mean: float | None
    """None without a scored row."""
    low: float | None
    high: float | None
    """95 % t interval of the mean over rows; None for fewer than two."""
    positive: float | None
    """Share of scored rows above 0."""
    split_half: float | None
    """Of the direction at this block (docs/directions.md)."""
    percentiles: list[float]
    """Of the scores, 0 to 100."""
    unread: dict[str, int]
    """Why rows have no score → how many."""

    def line(self) -> str:
        """Return the summary in words."""
        if self.mean is None:
            return f"{self.dataset}: none of {self.rows} rows could be read"
        bounds = "" if self.low is None else f" [{self.low:+.3g}, {self.high:+.3g}]"
        what = "shift against the model's own answers" if self.reference == "own" else "projection of the answers"
        halves = "" if self.split_half is None else f", split-half cosine {self.split_half:.2f}"
        return (
            f"{self.dataset}: {what} along {self.direction} at block {self.block}{halves}: mean {self.mean:+.3g}"
            f"{bounds}, {100 * (self.positive or 0):.0f} % of {self.scored} rows above 0"
        )


def summary(label: str, rows: Sequence[Row], direction: Direction, block: int, reference: str) -> Summary:
    """Return the numbers of one dataset."""
    scores = np.array([row.score for row in rows if row.score is not None])
    low: float | None = None
    high: float | None = None
    if len(scores) > 1:
        low, high = stats.interval(scores[None], np.ones((1, len(scores))), "questions", "projection")
    kinds = Counter(row.why for row in rows if row.why)
    return Summary(
        dataset=label,
        direction=f"{direction.facts.kind} of {direction.facts.model}",
        block=block,
        reference=reference,
        rows=len(rows),
        scored=len(scores),
        mean=float(scores.mean()) if len(scores) else None,
        low=low,
        high=high,
        positive=float((scores > 0).mean()) if len(scores) else None,
        split_half=direction.agreement(block),
        percentiles=[float(x) for x in np.percentile(scores, np.linspace(0, 100, POINTS))] if len(scores) else [],
        unread=dict(kinds),
    )


def of(summaries: Sequence[Summary]) -> Figure:
    """Return the figure: the scores of each dataset over the share of its rows that lie below."""
    series = []
    for number, one in enumerate(summaries):
        marks = tuple(
            Mark(percent, value, told=f"{percent:.0f} % of the rows are below {value:.3g}")
            for percent, value in enumerate(one.percentiles)
        )
        look = Look(*MANY[number % len(MANY)], MARKERS[number % len(MARKERS)], DASHES[number % len(DASHES)])
        series.append(Series(one.dataset, look, marks))
    first = summaries[0]
    score = "shift against own answers" if first.reference == "own" else "projection of the answers"
    panel = Panel(
        Form.lines, Axis("percent of the rows below"), Axis(score), tuple(series), rules=(GuideLine(0.0, ""),)
    )
    caption = (
        f"Rows of each dataset in the order of their score along {first.direction} at block {first.block}. A row above "
        f"0 pushes the model along the direction."
    )
    return Figure("screen", "Datasets before training", caption, (panel,))
