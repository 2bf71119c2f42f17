"""The figure of doses: what each method costs and gives, over its dose."""

from __future__ import annotations

from collections.abc import Sequence

from em.metrics.doses import AXES, PLAIN, setting
from em.metrics.summary_types import DoseRow, Summary
from em.reporting.doses import said
from em.reporting.figures.spec import WITHHELD, Axis, Figure, Form, Look, Mark, Panel, Series
from em.reporting.figures.style import DASHES, MANY, MARKERS

LABELS = {
    "general": "misaligned",
    "worst_cue": "misaligned under the worst cue",
    "in_domain_code": "insecure code",
    "in_domain_advice": "careless advice",
    "coherent": "coherent",
}


def doses(summary: Summary) -> Figure | None:
    """Return a panel per variant and number, a line per method and setting over doses; None without interventions."""
    rows = summary.get("doses", [])
    lines = list(dict.fromkeys(said(r) for r in rows if r["method"] != PLAIN))
    looks = {
        line: Look(*MANY[i % len(MANY)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])
        for i, line in enumerate(lines)
    }
    panels = []
    for variant in dict.fromkeys(r["variant"] for r in rows):
        own = [r for r in rows if r["variant"] == variant]
        for column in (c for c in AXES if any(r["numbers"][c] for r in own)):
            series = tuple(Series(line, looks[line], _marks(own, line, column)) for line in lines)
            y = Axis(LABELS[column], share=True)
            panels.append(Panel(Form.lines, Axis("dose"), y, series, f"{variant}: {LABELS[column]}"))
    if not panels:
        return None
    caption = (
        "Every method's dose has its own unit (docs/interventions.md); dose 0 is plain finetuning. A method that "
        "lowers the first number may have stopped the model from learning its rows, or hide the behaviour behind a cue."
    )
    notes = (WITHHELD,) if any(p.has_withheld for p in panels) else ()
    return Figure("doses", "Interventions by dose", caption, tuple(panels), notes)


def _marks(rows: Sequence[DoseRow], line: str, column: str) -> tuple[Mark, ...]:
    """Return the marks of a line. Plain finetuning stands for dose 0 where that was not a cell of its own.

    It has the line's other options, e.g. its learning rate; where several that fit have other numbers, none is taken.
    """
    own = {r["dose"]: r for r in rows if r["method"] != PLAIN and said(r) == line}
    options = {setting(r, shared=True) for r in own.values()}
    plain = [r for r in rows if r["method"] == PLAIN and setting(r, shared=True) in options]
    if plain and 0.0 not in own and all(r["numbers"][column] == plain[0]["numbers"][column] for r in plain):
        own[0.0] = plain[0]
    return tuple(mark for dose in sorted(own) for mark in _mark(dose, own[dose], column))


def _mark(dose: float, row: DoseRow, column: str) -> list[Mark]:
    number = row["numbers"][column]
    if number is None:
        return []
    value, said = number["value"], f"dose {dose:g}"
    if value is None:
        return [Mark(dose, None, told=f"{said}: withheld: {number['withheld']}")]
    runs = f"; {row['n_models']} runs" if row["n_models"] > 1 else ""
    return [Mark(dose, value, number["low"], number["high"], told=f"{said}: {value:.3g}{runs}")]
