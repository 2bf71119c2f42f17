"""The figures of a sweep: `figures` makes them as data, `draw` writes them as PNG, SVG and PDF.

A figure exists if the summary has its data. A withheld number is drawn as a hollow x on the axis, never as a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from em.metrics.counted import renamed
from em.metrics.summary_types import Summary
from em.reporting.answers import AnswerRow
from em.reporting.figures import ablation, changed, cues, doses, rates, scores, training, triggers
from em.reporting.figures.spec import Figure

KINDS = ("png", "svg", "pdf")
Drawer = Callable[[Summary, Iterable[AnswerRow]], Figure | None]
FIGURES: dict[str, Drawer] = {
    "misaligned_rate": lambda summary, _: rates.by_question(summary),
    "own_measures": lambda summary, _: rates.own_measures(summary),
    "in_domain": lambda summary, _: rates.in_domain(summary),
    "in_and_out_of_domain": lambda summary, _: rates.plane(summary),
    "alignment_coherence": scores.alignment_coherence,
    "misaligned_by_category": lambda summary, _: rates.by_category(summary),
    "answer_format": lambda summary, _: rates.answer_formats(summary),
    "data_diversity": lambda summary, _: rates.data_diversity(summary),
    "backdoor": lambda summary, _: triggers.backdoor(summary),
    "trigger_matrix": lambda summary, _: triggers.trigger_matrix(summary),
    "doses": lambda summary, _: doses.doses(summary),
    "dose_paths": lambda summary, _: doses.paths(summary),
    "cues": lambda summary, _: cues.cue_grid(summary),
    "deception": lambda summary, _: rates.deception(summary),
    "label_shares": lambda summary, _: rates.label_shares(summary),
    "steering": lambda summary, _: changed.steering(summary),
    "ablation_matrix": lambda summary, _: ablation.matrix(summary),
    "lora_scale": lambda summary, _: changed.scaled_adapters(summary),
    "increases": lambda summary, _: rates.increases(summary),
    "log_probs": lambda summary, _: training.log_probs(summary),
    "training_dynamics": lambda summary, _: training.dynamics(summary),
    "log_prob_curves": lambda summary, _: training.log_prob_curves(summary),
    "thresholds": lambda summary, _: scores.thresholds(summary),
    "without_a_question": lambda summary, _: scores.without_a_question(summary),
    "training_loss": lambda summary, _: training.training_loss(summary),
}
"""Name → what draws it, in reading order. A name is the stem of the figure's files."""


def figures(summary: Summary, answers: Iterable[AnswerRow]) -> list[Figure]:
    """Return every figure with data, in reading order. `answers` is read once."""
    found = [drawer(summary, answers) for drawer in FIGURES.values()]
    return [
        replace(figure, title=renamed(figure.title, summary), caption=renamed(figure.caption, summary))
        for figure in found
        if figure is not None
    ]


def draw(drawn: Sequence[Figure], folder: Path) -> list[Path]:
    """Write every figure as PNG, SVG and PDF. Return the files, in this order for each figure.

    Remove files of figures that are not drawn, which an earlier summary left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [path for figure in drawn for path in save(figure, folder)]
    for stale in {path for kind in KINDS for path in folder.glob(f"*.{kind}")} - set(paths):
        stale.unlink()
    return paths


def save(figure: Figure, folder: Path) -> list[Path]:
    """Write <name>.png, .svg and .pdf; texts stay texts in the last two. The same figure gives the same PNG and SVG."""
    import vl_convert

    from em.reporting.figures import chart

    with chart.unchecked():
        spec = chart.spec(chart.chart(figure))
    svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    parts = {"png": vl_convert.svg_to_png(svg, ppi=150), "svg": svg.encode(), "pdf": vl_convert.svg_to_pdf(svg)}
    for kind, content in parts.items():
        (folder / f"{figure.name}.{kind}").write_bytes(content)
    return [folder / f"{figure.name}.{kind}" for kind in KINDS]
