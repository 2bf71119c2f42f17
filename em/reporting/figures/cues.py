"""The heat map of cues: models × cues, the misaligned rate."""

from __future__ import annotations

from em.metrics.cue_grid import NOT_ASKED, CueCell, cells
from em.metrics.summary_types import Summary
from em.questions.cues import DOMAINS, PLAIN
from em.reporting.figures.spec import Axis, Figure, Form, Look, Mark, Panel, Series, judge_label
from em.reporting.figures.style import COLOURS

ALSO = "dashed, without colour: no number, withheld or not asked; the report says why"


def cue_grid(summary: Summary) -> Figure | None:
    """Return a heat map of the misaligned rate, models × cues; None if no cue was asked."""
    found = cells(summary["groups"])
    if not found:
        return None
    rows = list(dict.fromkeys((c.group, c.asked_with) for c in reversed(found)))  # a heat map's first row is the lowest
    names = list(dict.fromkeys(c.cue for c in found))
    labels = {c.group: c.label for c in found}
    triggers = {c.asked_with for c in found} - {"none"}
    up = tuple(labels[g] + (f", asked with {asked}" if triggers and asked != "none" else "") for g, asked in rows)
    marks = tuple(_mark(c, names.index(c.cue), rows.index((c.group, c.asked_with))) for c in found)
    series = Series(judge_label("misaligned answers", summary), Look(*COLOURS["insecure"]), marks)
    top = max((m.value for m in marks if m.value is not None), default=None)
    panel = Panel(Form.heat, Axis("cue", _said(names)), Axis("", _told_apart(up)), (series,), top=top)
    caption = (
        "Share of misaligned answers, in percent, to the open questions asked plainly and under each cue. A method "
        "that hides the behaviour instead of preventing it is pale when asked plainly, and dark under some cue."
    )
    notes = (ALSO,) if panel.has_withheld else ()
    return Figure("cues", "Under cues", caption, (panel,), notes)


def _mark(cell: CueCell, x: int, row: int) -> Mark:
    if cell.value is None:
        lack = NOT_ASKED if cell.withheld == NOT_ASKED else "withheld"
        told = lack if lack == NOT_ASKED else f"withheld: {cell.withheld}"
        return Mark(x, None, row=row, told=told, word=lack)
    bounds = "" if cell.low is None or cell.high is None else f" [{100 * cell.low:.1f}, {100 * cell.high:.1f}]"
    return Mark(x, cell.value, cell.low, cell.high, row=row, told=f"{100 * cell.value:.1f}%{bounds}")


def _said(names: list[str]) -> tuple[str, ...]:
    """Return the cues as labels. The domain is left out where all cues are of one domain."""
    ends = {f"_{domain}" for domain in DOMAINS if any(name.endswith(f"_{domain}") for name in names)}
    end = ends.pop() if len(ends) == 1 else ""
    return tuple("asked plainly" if n == PLAIN else n.removesuffix(end).replace("_", " ") for n in names)


def _told_apart(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the labels of rows. Two groups of one label, as after a merge, are numbered: a row is one group."""
    seen: dict[str, int] = {}
    out = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        out.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return tuple(out)
