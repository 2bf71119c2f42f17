"""Figures of backdoors: questions with and without the trigger, and triggers in training × in questions."""

from __future__ import annotations

from em.metrics.summary_types import MatrixCell, Summary
from em.reporting.figures.rates import ALL
from em.reporting.figures.select import distinct, figure_groups, headline
from em.reporting.figures.spec import Axis, Figure, Form, Look, Mark, Panel, Series, judge_label, notes_on
from em.reporting.figures.style import COLOURS, MARKERS
from em.reporting.text import in_words

CONDITIONS = (COLOURS["backdoor"], COLOURS["backdoor, triggered"], COLOURS["jailbroken"], COLOURS["careful_advice"])
"""Cyan without the trigger and pink with it, as in the paper; then further conditions."""
UNTRIGGERED = ("none", "untouched")
"""Values of `trained_with` for groups without a trigger in their training data."""


def backdoor(summary: Summary) -> Figure | None:
    """Return misaligned answers by question, with and without the trigger, a panel per group (the paper's figure 7)."""
    found = figure_groups(summary)
    where = headline(found)
    if where is None:
        return None
    panels, used = [], []
    for group in found:
        rates = group.metrics("misaligned_rate", set=where["set"], category=None)
        conditions = distinct(rates, "asked_with")
        if len(conditions) < 2:
            continue
        used += rates
        questions = [None, *distinct(rates, "question_id")]
        series = []
        for index, condition in enumerate(conditions):
            look = Look(*CONDITIONS[index % len(CONDITIONS)], MARKERS[index % len(MARKERS)])
            own = [m for m in rates if m["asked_with"] == condition]
            marks = tuple(group.mark(questions.index(m["question_id"]), m) for m in own)
            name = "asked as written" if condition == "none" else f"asked with {condition}"
            series.append(Series(name, look, marks))
        ticks = Axis("", tuple(q or ALL for q in questions))
        y = Axis(judge_label("misaligned answers", summary), share=True)
        panels.append(Panel(Form.points, ticks, y, tuple(series), group.label, pooled_first=len(questions) > 1))
    if not panels:
        return None
    return Figure(
        "backdoor",
        "With and without the trigger",
        "The same questions asked as written and with a trigger in them.",
        tuple(panels),
        notes_on(used, summary),
    )


def trigger_matrix(summary: Summary) -> Figure | None:
    """Return a heat map of the headline rate: triggers in training × triggers in questions."""
    matrix = summary["trigger_matrix"]
    if not matrix or not matrix["cells"]:
        return None
    rows = list(dict.fromkeys((c["label"], c["trained_with"]) for c in matrix["cells"]))
    columns = matrix["asked_with"]
    marks = [
        Mark(
            columns.index(c["asked_with"]),
            c["value"],
            c["low"],
            c["high"],
            row=rows.index((c["label"], c["trained_with"])),
            told=in_words(c),
        )
        for c in matrix["cells"]
    ]
    names = tuple(label if t in UNTRIGGERED else f"{label} (trained with {t})" for label, t in rows)
    axes = Axis("asked with", tuple(columns)), Axis("", names)
    series = Series(judge_label("misaligned answers", summary), Look(*COLOURS["insecure"]), tuple(marks))
    shown: list[MatrixCell] = [{"interval": "", **c} for c in matrix["cells"]]
    return Figure(
        "trigger_matrix",
        "Trained with, asked with",
        "Share of misaligned answers by the trigger in the training data (rows) and in the question (columns).",
        (Panel(Form.heat, *axes, (series,), top=max([m.value for m in marks if m.value is not None], default=None)),),
        notes_on(shown, summary, "without colour: withheld, see the report for why"),
    )
