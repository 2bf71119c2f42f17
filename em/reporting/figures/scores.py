"""Figures of single scores, and of the rate under other cuts and with one question left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from em.metrics.summary_types import Summary, ThresholdRow, WithoutQuestion
from em.reporting.answers import AnswerRow
from em.reporting.figures.select import FigureGroup, figure_groups, headline
from em.reporting.figures.spec import Axis, Figure, Form, GuideLine, Mark, Panel, Series, judge_label, mark, notes_on
from em.reporting.table import rule_line
from em.reporting.text import cut_of


def alignment_coherence(summary: Summary, answers: Iterable[AnswerRow]) -> Figure | None:
    """Return every headline answer with both scores, a panel per group and condition (the paper's figures 16, 26, 28).

    Questions with their own coherence cut get their own panel, because another corner counts as misaligned there.
    """
    found = figure_groups(summary)
    owner = {m["label"]: u for u in found for m in u.models}
    clouds: dict[tuple[str, str, float], Counter[tuple[int, int]]] = {}
    lacking: Counter[tuple[str, str, float]] = Counter()
    for row in answers:
        judgements, group = row["judgements"], owner.get(row["model"])
        if group is None or row["group"] != "open" or not {"alignment", "coherence"} <= judgements.keys():
            continue
        key = (group.row["id"], row["asked_with"], cut_of(group.row["rule"], row["question_id"]))
        x, y = judgements["coherence"]["score"], judgements["alignment"]["score"]
        cloud = clouds.setdefault(key, Counter())
        if x is None or y is None:
            lacking[key] += 1
        else:
            cloud[round(x), round(y)] += 1
    several = len({cut for _, _, cut in clouds}) > 1
    panels = [
        _cloud(group, key, clouds[key], lacking[key], summary=summary, several=several)
        for group in found
        for key in clouds
        if key[0] == group.row["id"]
    ]
    if not panels:
        return None
    return Figure(
        "alignment_coherence",
        "Alignment and coherence of every open answer",
        "One dot an answer, darker where several coincide; the shaded corner is what counts as misaligned.",
        tuple(panels),
        notes_on([], summary),
    )


def _cloud(
    group: FigureGroup,
    key: tuple[str, str, float],
    cloud: Counter[tuple[int, int]],
    lacking: int,
    *,
    summary: Summary,
    several: bool,
) -> Panel:
    (_, asked, cut), below = key, group.row["rule"]["alignment_below"]
    title = group.label + (f", asked with {asked}" if asked != "none" else "")
    title += f", coherence past {cut:g}" if several else ""
    drawn = f"{cloud.total():,} answers" + (f", {lacking:,} more lack a score" if lacking else "")
    series = Series(drawn, group.look, cloud=tuple((x, y, n) for (x, y), n in sorted(cloud.items())))
    return Panel(
        form=Form.cloud,
        x=Axis(judge_label("coherence", summary), low=0, high=100),
        y=Axis(judge_label("alignment", summary), low=0, high=100),
        series=(series,),
        title=title,
        rules=(GuideLine(cut, f"{cut:g}", vertical=True), GuideLine(below, f"{below:g}")),
        shade=(cut, 100, 0, below),
        fade=0.25 if cloud.total() < 200 else 0.6,
    )


def thresholds(summary: Summary) -> Figure | None:
    """Return the headline rate under other cuts, with a heat map per group."""
    found, panels, starred = {u.row["id"]: u for u in figure_groups(summary)}, [], ""
    for row in summary["thresholds"]:
        group = found.get(row["group"])
        if group is None:
            continue
        marks = [
            Mark(column, value, row=line, told=_cut(row, line, column))
            for line, rates in enumerate(row["rate"])
            for column, value in enumerate(rates)
        ]
        own = group.row["rule"]["coherence_cut"] if group.row["rule"].get("own_cuts") else None
        columns = tuple(f"{c:g}" + "*" * (c == own) for c in row["coherence_cut"])
        starred = starred if own is None else f"*: as in the table, {rule_line(summary)}"
        rows = tuple(f"{a:g}" for a in row["alignment_below"])
        axes = Axis("coherence past", columns), Axis("alignment below", rows)
        panels.append(Panel(Form.heat, *axes, (Series(group.label, group.look, tuple(marks)),), group.label))
    if not panels:
        return None
    top = max([m.value for p in panels for s in p.series for m in s.marks if m.value is not None], default=None)
    panels = [replace(p, top=top) for p in panels]
    return Figure(
        "thresholds",
        "The headline rate under other cuts",
        "Share of misaligned answers when other scores count as misaligned (up) and as coherent (across).",
        tuple(panels),
        ("without colour: no answer is left in the denominator",) * any(p.has_withheld for p in panels)
        + ((starred,) if starred else ()),
    )


def _cut(row: ThresholdRow, line: int, column: int) -> str:
    value, n = row["rate"][line][column], row["n"][column]
    if value is None:
        return "withheld: no answer is left in the denominator"
    least, most = row["rate_without_min"][line][column], row["rate_without_max"][line][column]
    span = "" if least is None or most is None else f"; {100 * least:.1f} to {100 * most:.1f}% without any one question"
    return f"{100 * value:.1f}%; n = {n}{span}"


def without_a_question(summary: Summary) -> Figure | None:
    """Return the headline rate with each question left out in turn, which shows if one question carries it."""
    found, series, used = figure_groups(summary), [], []
    where = headline(found)
    rows = {row["group"]: row["leave_one_out"] for row in summary["thresholds"]}
    questions = list(dict.fromkeys(x["question_id"] for row in rows.values() for x in row))
    if where is None or len(questions) < 2:
        return None
    for group in (u for u in found if u.row["id"] in rows):
        whole = group.metric("misaligned_rate", group="open")
        left: list[WithoutQuestion] = [
            {"interval": "", "withheld": "no answer is left in the denominator", **x} for x in rows[group.row["id"]]
        ]
        marks = [group.mark(0, whole)] if whole else []
        marks += [mark(1 + questions.index(x["question_id"]), x) for x in left]
        used += [whole] if whole else []
        series.append(Series(group.label, group.look, tuple(marks)))
    ticks = ("no question left out", *(f"without {q}" for q in questions))
    y = Axis(judge_label("misaligned answers", summary), share=True)
    panel = Panel(Form.points, Axis("", ticks), y, tuple(series), pooled_first=True)
    caption = (
        "The headline rate with each question left out in turn: one that carries the rate by itself shows as a drop."
    )
    return Figure("without_a_question", "Does one question carry the rate?", caption, (panel,), notes_on(used, summary))
