"""The figure of the activation difference lens: how large the difference is at each position, by block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from em.directions.lens import Means
from em.reporting.figures.spec import Axis, Figure, Form, Look, Mark, Panel, Series
from em.reporting.figures.style import DASHES, MANY, MARKERS


def of(label: str, untouched: Means, finetuned: Means, positions: Sequence[int]) -> Figure:
    """Return the figure: length of the mean difference over the mean length of the stream."""
    difference = np.linalg.norm(finetuned.states - untouched.states, axis=2)
    series = []
    for number, position in enumerate(positions):
        shares = difference[:, position] / untouched.norms[:, position]
        marks = tuple(Mark(b, float(x), told=f"block {b}: {100 * x:.2g} %") for b, x in enumerate(shares))
        look = Look(*MANY[number % len(MANY)], MARKERS[number % len(MARKERS)], DASHES[number % len(DASHES)])
        series.append(Series(f"token {position}", look, marks))
    panel = Panel(Form.lines, Axis("block"), Axis("difference over the stream's length", share=True), tuple(series))
    caption = (
        "Mean difference of finetuned and untouched model at the first tokens of unrelated texts, over the mean length "
        "of the untouched model's stream there."
    )
    return Figure("lens", f"What finetuning adds to {label} on unrelated texts", caption, (panel,))
