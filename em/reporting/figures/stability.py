"""The figure of adapters compared: loss at equal length, and the loss that noise adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from em.reporting.figures.spec import Axis, Figure, Form, GuideLine, Look, Mark, Panel, Series
from em.reporting.figures.style import DASHES, MANY, MARKERS


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One loss of one model."""

    model: str
    kind: str
    """length: scaled to `at` times the mean length of the models; noise: turned by ε = `at`."""
    at: float
    seed: int
    """Of the noise; 0 for a length."""
    loss: float
    """Nats per supervised token."""


def relative(found: Sequence[Measured], model: str) -> dict[float, list[float]]:
    """Return ε → the relative increases of the loss over that without noise, one per seed."""
    own = [m for m in found if m.model == model and m.kind == "noise"]
    plain = next(m.loss for m in own if m.at == 0)
    out: dict[float, list[float]] = {}
    for m in own:
        out.setdefault(m.at, []).append(m.loss / plain - 1)
    return dict(sorted(out.items()))


def of(found: Sequence[Measured], dataset: str) -> Figure:
    """Return the figure of all models."""
    names = list(dict.fromkeys(m.model for m in found))
    lengths, noise = [], []
    for number, name in enumerate(names):
        look = Look(*MANY[number % len(MANY)], MARKERS[number % len(MARKERS)], DASHES[number % len(DASHES)])
        own = sorted((m.at, m.loss) for m in found if m.model == name and m.kind == "length")
        lengths.append(Series(name, look, tuple(Mark(100 * x, y, told=f"{100 * x:.0f} %: {y:.4g}") for x, y in own)))
        noise.append(Series(name, look, tuple(_noise(at, values) for at, values in relative(found, name).items())))
    panels = (
        Panel(Form.lines, Axis("length, % of the models' mean"), Axis("loss, nats a token"), tuple(lengths)),
        Panel(
            Form.lines,
            Axis("noise ε"),
            Axis("relative increase of the loss", share=True),
            tuple(noise),
            rules=(GuideLine(0.0, ""),),
        ),
    )
    caption = (
        f"Loss on rows of {dataset}, with each adapter scaled to the same length, and turned by orthogonal noise. A "
        f"solution that is found easily has a low loss at a small length, and keeps it under noise."
    )
    notes = ("band: one standard deviation over seeds",)
    return Figure("stability", "Efficiency and stability", caption, panels, notes)


def _noise(at: float, values: Sequence[float]) -> Mark:
    mean = float(np.mean(values))
    half = float(np.std(values, ddof=1)) if len(values) > 1 else None
    told = f"ε {at:g}: {100 * mean:+.3g} %, {len(values)} seeds"
    return Mark(at, mean, None if half is None else mean - half, None if half is None else mean + half, told=told)
