"""The page of a rank-1 adapter's scalars: each token of an answer on a ground that says how much of B is added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from em.reporting.figures.spec import Axis, Figure, Form, GuideLine, Look, Mark, Panel, Series
from em.reporting.figures.style import COLOURS

TEMPLATE = "scalars.html.j2"
LOOKS = {"misaligned": Look(*COLOURS["insecure"]), "aligned": Look(*COLOURS["secure"], "square")}


@dataclass(frozen=True, kw_only=True)
class Marked:
    """One answer with the scalars of its tokens."""

    id: str
    side: str
    """misaligned or aligned."""
    tokens: Sequence[str]
    """As text; the page escapes them."""
    values: NDArray[np.float64]
    """[tokens, modules], of the answer alone."""


def page(label: str, modules: Sequence[str], answers: Sequence[Marked]) -> str:
    """Return the page as HTML. A module's strongest token has the full colour: red adds B, blue takes it away."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    top = np.max([np.abs(a.values).max(axis=0) for a in answers], axis=0)
    folder = Path(__file__).parent / "templates"
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined)
    template = environment.get_template(TEMPLATE)
    return template.render(label=label, modules=modules, answers=answers, top=top)


def figure(label: str, modules: Sequence[str], answers: Sequence[Marked]) -> Figure:
    """Return the figure: the mean scalar of each side's answers, by module, with its 95 % t interval over answers."""
    from em.metrics import stats

    series = []
    for side, look in LOOKS.items():
        means = np.array([a.values.mean(axis=0) for a in answers if a.side == side])
        marks = []
        for m, module in enumerate(modules):
            own = means[:, m]
            low, high = stats.interval(own[None], np.ones((1, len(own))), "questions", "projection")
            told = f"{module}: {own.mean():+.3g} [{low:+.3g}, {high:+.3g}], {len(own)} answers"
            marks.append(Mark(m, float(own.mean()), low, high, told=told))
        series.append(Series(f"{side} answers", look, tuple(marks)))
    panel = Panel(
        Form.points,
        Axis("", categories=tuple(modules)),
        Axis("mean scalar of an answer's tokens"),
        tuple(series),
        rules=(GuideLine(0.0, ""),),
    )
    caption = "How much of each module's B a rank-1 adapter adds, mean over the tokens of an answer, then over answers."
    return Figure("scalars", f"Scalars of {label}", caption, (panel,), ("bars: 95 %, t over answers",))
