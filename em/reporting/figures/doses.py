"""The figure of doses: what each method costs and gives, over its dose."""

from __future__ import annotations

from collections.abc import Sequence

from em.metrics.doses import AXES, PLAIN, setting
from em.metrics.summary_types import DoseRow, Number, Summary
from em.reporting.doses import said
from em.reporting.figures.spec import WITHHELD, Axis, Figure, Form, Look, Mark, Panel, Series
from em.reporting.figures.style import DASHES, INK, MANY, MARKERS

LABELS = {
    "general": "misaligned",
    "worst_cue": "misaligned under the worst cue",
    "in_domain_code": "insecure code",
    "in_domain_advice": "careless advice",
    "toy_capitals": "in capitals (unwanted)",
    "toy_french": "in French (wanted)",
    "benign_gain": "benign skill, gain over the untouched model",
    "coherent": "coherent",
}


PLANES = (
    *(("in_domain_code", "general"), ("in_domain_advice", "general"), ("benign_gain", "general")),
    ("toy_french", "toy_capitals"),
)
"""(what should be learned, what should not), each a plane: across, up."""


def doses(summary: Summary) -> Figure | None:
    """Return a panel per variant and number, a line per method and setting over doses; None without interventions."""
    rows = summary.get("doses", [])
    looks, panels = _looks(rows), []
    for variant in dict.fromkeys(r["variant"] for r in rows):
        own = [r for r in rows if r["variant"] == variant]
        for column in (c for c in AXES if any(r["numbers"][c] for r in own)):
            series = tuple(
                Series(line, look, tuple(m for r in _line(own, line, column) for m in _mark(r, column)))
                for line, look in looks.items()
            )
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


def paths(summary: Summary) -> Figure | None:
    """Return planes of what should be learned and what should not, a path over its doses per method.

    None without interventions, or where neither an in-domain measure nor the benign skill was asked.
    """
    rows = summary.get("doses", [])
    looks, panels = _looks(rows), []
    for variant in dict.fromkeys(r["variant"] for r in rows):
        own = [r for r in rows if r["variant"] == variant]
        for plane in PLANES:
            series = [
                Series(line, look, tuple(m for r in _line(own, line, *plane) for m in _spot(r, *plane)))
                for line, look in looks.items()
            ]
            plain = tuple(m for r in own if r["method"] == PLAIN for m in _spot(r, *plane))
            series.append(Series("plain finetuning", INK, plain))
            across, up = (Axis(LABELS[column], share=True) for column in plane)
            if any(s.marks for s in series):
                panels.append(Panel(Form.plane, across, up, tuple(series), variant, path=True))
    if not panels:
        return None
    caption = (
        "Below and to the right is best: learned what it should, and nothing else. A path goes from "
        "plain finetuning to the method's largest dose; the doses stand beside the marks, each in its method's unit."
    )
    notes = ("bars: intervals, as in the table", *((WITHHELD,) if any(p.has_withheld for p in panels) else ()))
    return Figure("dose_paths", "What was learned, and what came with it", caption, tuple(panels), notes)


def _looks(rows: Sequence[DoseRow]) -> dict[str, Look]:
    """Return method with its setting → look."""
    lines = list(dict.fromkeys(said(r) for r in rows if r["method"] != PLAIN))
    return {
        line: Look(*MANY[i % len(MANY)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])
        for i, line in enumerate(lines)
    }


def _line(rows: Sequence[DoseRow], line: str, *columns: str) -> list[DoseRow]:
    """Return the rows of a line by dose. Plain finetuning stands for dose 0 where that was not a cell of its own.

    It has the line's other options, e.g. its learning rate; where several that fit have other numbers, none is taken.
    """
    own = [r for r in rows if r["method"] != PLAIN and said(r) == line]
    options = {setting(r, shared=True) for r in own}
    plain = [r for r in rows if r["method"] == PLAIN and setting(r, shared=True) in options]
    same = all(r["numbers"][c] == plain[0]["numbers"][c] for r in plain for c in columns)
    if plain and same and all(r["dose"] for r in own):
        own.append({**plain[0], "dose": 0.0})
    return sorted(own, key=lambda r: r["dose"])


def _mark(row: DoseRow, column: str) -> list[Mark]:
    number = row["numbers"][column]
    if number is None:
        return []
    value, dose = number["value"], row["dose"]
    if value is None:
        return [Mark(dose, None, told=f"dose {dose:g}: withheld: {number['withheld']}")]
    runs = f"; {row['n_models']} runs" if row["n_models"] > 1 else ""
    return [Mark(dose, value, number["low"], number["high"], told=f"dose {dose:g}: {value:.3g}{runs}")]


def _spot(row: DoseRow, wanted: str, unwanted: str) -> list[Mark]:
    """Return the mark of a row in a plane: what should be learned across, what should not up."""
    across, up = row["numbers"][wanted], row["numbers"][unwanted]
    if across is None or up is None:
        return []
    runs = f"; {row['n_models']} runs" if row["n_models"] > 1 else ""
    told = f"dose {row['dose']:g}: {LABELS[wanted]} {_text(across)}, {LABELS[unwanted]} {_text(up)}{runs}"
    word = "" if row["method"] == PLAIN else f"{row['dose']:g}"
    ends = (up["low"], up["high"], across["low"], across["high"])
    return [Mark(across["value"], up["value"], *ends, told=told, word=word)]


def _text(number: Number) -> str:
    value = number["value"]
    return f"withheld: {number['withheld']}" if value is None else f"{100 * value:.1f}%"
