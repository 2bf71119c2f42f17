"""Figures of models that are changed while they are sampled: steered at a block by a scale, adapters scaled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from em.metrics.summary_types import Facts, Summary
from em.reporting.figures.select import FigureGroup, figure_groups, headline
from em.reporting.figures.spec import Axis, Figure, Form, Look, Mark, Panel, Series, judge_label, mark, notes_on
from em.reporting.figures.style import COLOURS, DASHES, MANY, MARKERS
from em.reporting.text import in_words

MEASURES = {"misaligned_rate": "misaligned answers", "coherent_share": "coherent answers"}
Steered = tuple[FigureGroup, Facts]


def steering(summary: Summary) -> Figure | None:
    """Return heat maps of the misaligned rate and of coherence: scales × blocks, a pair per direction."""
    found = [(g, _changed(g).get("steer")) for g in figure_groups(summary)]
    steered: list[Steered] = [(g, s) for g, s in found if s]
    asked = headline([g for g, _ in steered])
    if not steered or asked is None:
        return None
    panels, metrics = [], []
    for name in dict.fromkeys(_series_of(g, s) for g, s in steered):
        own = [(g, s) for g, s in steered if _series_of(g, s) == name]
        for measure, label in MEASURES.items():
            shown = [(g.metric(measure, question_id=None, category=None, **asked), s) for g, s in own]
            metrics += [m for m, _ in shown if m is not None]
            panels.append(_heat(shown, judge_label(label, summary), name))
    caption = "A direction times a scale (rows) is added after one block (columns). Read coherence beside the rate."
    return Figure("steering", "Steered by block and scale", caption, tuple(panels), notes_on(metrics, summary))


def _changed(group: FigureGroup) -> Facts:
    """Return what is changed in a group's models; {} for an imported group, whose recipe is not known."""
    found: Facts = group.row.get("facts", {}).get("changed", {})
    return found


def _series_of(group: FigureGroup, steer: Facts) -> str:
    return f"{group.row['variant'] or 'untouched'} + {steer['direction']}"


def _heat(shown: Sequence[tuple[Any, Facts]], label: str, title: str) -> Panel:
    blocks = sorted({s["block"] for _, s in shown})
    scales = sorted({s["scale"] for _, s in shown})
    marks = [
        Mark(
            blocks.index(s["block"]),
            metric["value"],
            metric["low"],
            metric["high"],
            row=scales.index(s["scale"]),
            told=f"{_dose(s)}: {in_words(metric)}",
        )
        for metric, s in shown
        if metric is not None
    ]
    look = COLOURS["insecure"] if label.startswith(MEASURES["misaligned_rate"]) else COLOURS["secure"]
    axes = Axis("block", tuple(map(str, blocks))), Axis("scale", tuple(f"{scale:g}" for scale in scales))
    return Panel(Form.heat, *axes, (Series(label, Look(*look), tuple(marks)),), title=f"{title}\n{label}", top=1.0)


def _dose(steer: Facts) -> str:
    known = steer.get("relative_dose")
    dose = "not measured" if known is None else f"{known:.2f}"
    return f"block {steer['block']}, scale {steer['scale']:g}, relative dose {dose}"


def scaled_adapters(summary: Summary) -> Figure | None:
    """Return the misaligned rate and coherence over sample.lora_scale, a line per variant."""
    groups = [g for g in figure_groups(summary) if not g.untouched]
    scaled = [(g, _changed(g)) for g in groups]
    scaled = [(g, changed) for g, changed in scaled if not set(changed) - {"lora_scale"}]
    asked = headline([g for g, _ in scaled])
    if asked is None or not any(changed for _, changed in scaled):
        return None
    panels, metrics = [], []
    for measure, label in MEASURES.items():
        series = []
        for number, variant in enumerate(dict.fromkeys(str(g.row["variant"]) for g, _ in scaled)):
            own = [(c.get("lora_scale", 1.0), g) for g, c in scaled if str(g.row["variant"]) == variant]
            rows = [(x, g.metric(measure, question_id=None, category=None, **asked)) for x, g in own]
            known = sorted(((x, m) for x, m in rows if m is not None), key=lambda pair: pair[0])
            metrics += [m for _, m in known]
            look = Look(*MANY[number % len(MANY)], MARKERS[number % len(MARKERS)], DASHES[number % len(DASHES)])
            series.append(Series(variant, look, tuple(mark(x, m) for x, m in known)))
        axis = Axis(judge_label(label, summary), share=True)
        panels.append(Panel(Form.lines, Axis("factor of the adapter"), axis, tuple(series)))
    caption = "The trained adapter times a factor: 0 is the untouched model, 1 the trained one."
    return Figure("lora_scale", "Scaled adapters", caption, tuple(panels), notes_on(metrics, summary))
