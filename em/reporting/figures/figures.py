"""The figures of a sweep: `figures` makes them as data, `draw` writes them as PNG and SVG.

A figure exists if the summary has its data. A withheld number is drawn as a hollow x on the axis, never as a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from em.metrics.summary_types import Summary
from em.reporting.answers import AnswerRow
from em.reporting.figures import rates, scores, training, triggers
from em.reporting.figures.spec import Figure


def figures(summary: Summary, answers: Iterable[AnswerRow]) -> list[Figure]:
    """Return every figure with data, in reading order. `answers` is read once."""
    found = [
        rates.by_question(summary),
        rates.in_domain(summary),
        rates.plane(summary),
        scores.alignment_coherence(summary, answers),
        rates.by_category(summary),
        rates.answer_formats(summary),
        rates.data_diversity(summary),
        triggers.backdoor(summary),
        triggers.trigger_matrix(summary),
        rates.deception(summary),
        rates.label_shares(summary),
        rates.increases(summary),
        training.log_probs(summary),
        training.dynamics(summary),
        training.log_prob_curves(summary),
        scores.thresholds(summary),
        scores.without_a_question(summary),
        training.training_loss(summary),
    ]
    return [figure for figure in found if figure is not None]


def draw(drawn: Sequence[Figure], folder: Path) -> list[Path]:
    """Write every figure as PNG and SVG. Return the files, PNG before SVG of each figure.

    Remove files of figures that are not drawn, which an earlier summary left.
    """
    from em.reporting.figures import canvas

    folder.mkdir(parents=True, exist_ok=True)
    paths = [path for figure in drawn for path in canvas.save(figure, folder)]
    for stale in {*folder.glob("*.png"), *folder.glob("*.svg")} - set(paths):
        stale.unlink()
    return paths
