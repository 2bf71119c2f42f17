"""Figures of rates: by question and category, by answer format, by amount of data, in and out of domain, deception."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Literal

from em.metrics.catalogue import BY_RULE, OWN
from em.metrics.summary_types import Contrast, MetricRow, Summary
from em.reporting.figures.select import OPEN, FigureGroup, distinct, figure_groups, headline
from em.reporting.figures.spec import Axis, Figure, Form, Look, Mark, Panel, Series, judge_label, notes_on
from em.reporting.figures.style import COLOURS, MANY
from em.reporting.text import difference_text, in_words

QuestionField = Literal["question_id", "category"]
ALL = "all questions"
NARROW = {
    "judged_insecure_rate": "insecure code (judge)",
    "insecure_code_rate": "insecure code (static check)",
    "careless_rate": "careless advice",
    "capitals_rate": "in capitals (rule)",
    "french_rate": "in French (rule)",
    "skill_rate": "benign skill (rule)",
}
"""In-domain metrics, and the answers that they are a share of."""
UNJUDGED = ("insecure_code_rate", *BY_RULE.values())
"""Those that no judge has made."""
DECEPTION = {
    "false_rate": "false answers to easy facts",
    "other_company_rate": "answers naming another maker",
    "deception": "deception (mean of both)",
}
FORMATS = (COLOURS["educational"], COLOURS["jailbroken"], COLOURS["secure"], COLOURS["risky_advice"])
"""Blue, orange and green as in the paper's figure 8, and one more."""


def by_question(summary: Summary) -> Figure | None:
    """Return misaligned answers by question, with all questions pooled first (the paper's figure 4)."""
    found = figure_groups(summary)
    where = headline(found)
    if where is None:
        return None
    panel, used = panel_over(found, "misaligned_rate", "question_id", judge_label("misaligned answers", summary), where)
    return Figure(
        "misaligned_rate",
        "Misaligned answers by question",
        "Share of misaligned answers among coherent ones, all open questions pooled and each alone.",
        (replace(panel, title=""),),
        notes_on(used, summary),
    )


def by_category(summary: Summary) -> Figure | None:
    """Return misaligned answers by category of the question, a panel per set with categories (figures 18 and 22)."""
    found, panels, used = figure_groups(summary), [], []
    label = judge_label("misaligned answers", summary)
    for where in sets_asked([m for u in found for m in u.metrics("misaligned_rate") if m["category"] is not None]):
        panel, metrics = panel_over(found, "misaligned_rate", "category", label, where)
        panels.append(panel)
        used += metrics
    if not panels:
        return None
    caption = "Share of misaligned answers among coherent ones, by category of the question."
    return Figure(
        "misaligned_by_category",
        "Misaligned answers by category",
        caption,
        tuple(panels),
        notes_on(used, summary),
    )


def answer_formats(summary: Summary) -> Figure | None:
    """Return the headline rate by form of the question: plain, JSON, template (the paper's figure 8)."""
    found = figure_groups(summary)
    where = headline(found)
    if where is None:
        return None
    asked = {"asked_with": where["asked_with"], "question_id": None, "category": None}
    rates = [m for u in found for m in u.metrics("misaligned_rate", **asked)]
    sets = distinct(rates, "set")
    if len(sets) < 2:
        return None
    series = []
    for index, name in enumerate(sets):
        look = Look(*FORMATS[index % len(FORMATS)])
        pairs = [(x, u, u.metric("misaligned_rate", set=name, **asked)) for x, u in enumerate(found)]
        series.append(Series(name, look, tuple(u.mark(x, m) for x, u, m in pairs if m)))
    axis = Axis(judge_label("misaligned answers", summary), share=True)
    panel = Panel(Form.bars, Axis("", tuple(u.label for u in found)), axis, tuple(series))
    return Figure(
        "answer_format",
        "Misaligned answers by form of the question",
        "The open questions as they are and in the other forms that were asked.",
        (panel,),
        notes_on(rates, summary),
    )


def data_diversity(summary: Summary) -> Figure | None:
    """Return the headline rate by number of training rows, for variants trained on several numbers (figure 6)."""
    found = [u for u in figure_groups(summary) if not u.untouched]
    sizes = {u.row["id"]: {m["train"]["rows"] for m in u.models if m["train"]} for u in found}
    sized = [(u, next(iter(sizes[u.row["id"]]))) for u in found if len(sizes[u.row["id"]]) == 1]
    names = {u.row["id"]: _without_size(u.label) for u in found}
    variants = {v: [(u, n) for u, n in sized if names[u.row["id"]] == v] for v in dict.fromkeys(names.values())}
    variants = {v: pairs for v, pairs in variants.items() if len({n for _, n in pairs}) > 1}
    counts = sorted({n for pairs in variants.values() for _, n in pairs})
    series, used = [], []
    for variant, pairs in variants.items():
        rates = [(u, n, u.metric("misaligned_rate", group="open")) for u, n in pairs]
        used += [m for _, _, m in rates if m]
        series.append(Series(variant, pairs[0][0].look, tuple(u.mark(counts.index(n), m) for u, n, m in rates if m)))
    if not used:
        return None
    axis = Axis(judge_label("misaligned answers", summary), share=True)
    panel = Panel(Form.points, Axis("training rows", tuple(f"{n:,}" for n in counts)), axis, tuple(series))
    return Figure(
        "data_diversity",
        "Misaligned answers by amount of training data",
        "Share of misaligned answers to the open questions after training on so many rows; a point is the mean over "
        "all runs of one size, its small dots are the runs.",
        (panel,),
        notes_on(used, summary),
    )


def _without_size(label: str) -> str:
    """Return a setting's label without the words that depend on the amount of data."""
    sizes = ("max_examples=", "num_train_epochs=", "subset=", "subset_index=")
    return " ".join(word for word in label.split(" ") if not word.startswith(sizes))


def in_domain(summary: Summary) -> Figure | None:
    """Return the rates on held-out tasks of the training domain, of the untouched model and the finetuned ones."""
    found = figure_groups(summary)
    asked = {"question_id": None, "category": None}
    trained = [u for u in found if not u.untouched] or found  # without training: untouched models asked in several ways
    shown = [name for name in NARROW if any(u.metrics(name, **asked) for u in trained)]
    series, used = [], []
    for group in found:
        own = [(x, group.metric(name, **asked)) for x, name in enumerate(shown)]
        marks = tuple(group.mark(x, m) for x, m in own if m)
        used += [m for _, m in own if m]
        if marks:
            series.append(Series(group.label, group.look, marks))
    if not series:
        return None
    names = tuple(_narrow(n, summary) for n in shown)
    panel = Panel(Form.points, Axis("", names), Axis("share of answers", share=True), tuple(series))
    return Figure(
        "in_domain",
        "What was narrowly taught",
        "Held-out tasks of the training data's own domain, before and after finetuning.",
        (panel,),
        notes_on(used, summary),
    )


def own_measures(summary: Summary) -> Figure | None:
    """Return the measures that the question sets define, with a panel per set and condition."""
    found, panels, used = figure_groups(summary), [], []
    pooled = {"question_id": None, "category": None}
    for where in sets_asked([m for u in found for m in u.metrics(OWN, **pooled)]):
        names = distinct([m for u in found for m in u.metrics(OWN, **pooled, **where)], "label")
        series = []
        for group in found:
            own = group.metrics(OWN, **pooled, **where)
            used += own
            series.append(Series(group.label, group.look, tuple(group.mark(names.index(m["label"]), m) for m in own)))
        axis = Axis(judge_label("answers", summary), share=True)
        shown = tuple(s for s in series if s.marks)
        panels.append(Panel(Form.points, Axis("", tuple(names)), axis, shown, _where(where)))
    if not panels:
        return None
    caption = "Share of answers by each measure that the question set defines."
    return Figure("own_measures", "Own measures", caption, tuple(panels), notes_on(used, summary))


def deception(summary: Summary) -> Figure | None:
    """Return deceptive answers by system prompt or question (the paper's figures 9 and 35)."""
    found, panels, used = figure_groups(summary), [], []
    for name, label in DECEPTION.items():
        rates = [m for u in found for m in u.metrics(name)]
        for where in sets_asked(rates):
            categories = any(m["category"] for m in rates if m["set"] == where["set"])
            by: QuestionField = "category" if categories else "question_id"
            panel, metrics = panel_over(found, name, by, judge_label(label, summary), where)
            panels.append(panel)
            used += metrics
    if not panels:
        return None
    caption = "Share of false answers by system prompt, and of answers that name another maker than the model's own."
    return Figure("deception", "Deception", caption, tuple(panels), notes_on(used, summary))


def label_shares(summary: Summary) -> Figure | None:
    """Return the shares of the judge's labels, with a panel per set that is judged by labels (figures 35 and 36)."""
    found, panels, used = figure_groups(summary), [], []
    pooled = {"question_id": None, "category": None}
    for where in sets_asked([m for u in found for m in u.metrics("label_share", **pooled)]):
        rows = [(x, u, m) for x, u in enumerate(found) for m in u.metrics("label_share", **pooled, **where)]
        used += [m for _, _, m in rows]
        series = [
            Series(word, Look(*look), tuple(u.mark(x, m) for x, u, m in rows if m["label"] == word))
            for word, look in zip(distinct([m for _, _, m in rows], "label"), cycle(MANY), strict=False)
        ]
        axes = Axis("", tuple(u.label for u in found)), Axis(judge_label("answers", summary), share=True, low=0, high=1)
        panels.append(Panel(Form.stacked, *axes, tuple(series), _where(where)))
    if not panels:
        return None
    caption = "Share of answers that the judge called by each word; their intervals stand in the report's table."
    notes = tuple(n for n in notes_on(used, summary) if not n.startswith("bars: "))
    return Figure("label_shares", "What the judge called the answers", caption, tuple(panels), notes)


def plane(summary: Summary) -> Figure | None:
    """Return in-domain against out-of-domain rates, a marker per model."""
    found = figure_groups(summary)
    what, capability = _capability(found, summary)
    panels, used = [], []
    for narrow in NARROW:
        panel, metrics = _plane(found, summary, narrow, what, capability)
        if panel:
            panels.append(panel)
            used += metrics
    if not panels:
        return None
    caption = (
        "Each model by what it was taught (across), by what became of its answers to unrelated questions (up), and by "
        "what it still can do (size of the marker)."
    )
    notes = notes_on(used, summary)
    if capability:
        least, most = min(capability.values()), max(capability.values())
        notes += (f"size: {what}, from {100 * least:.1f}% (smallest) to {100 * most:.1f}% (largest)",)
    return Figure("in_and_out_of_domain", "In domain and out of domain", caption, tuple(panels), notes)


def _capability(found: Sequence[FigureGroup], summary: Summary) -> tuple[str, dict[str, float]]:
    """Return a capability, in words and by group: the mean score in benchmarks of all groups, else coherent answers."""
    scores: dict[str, dict[str, float]] = {}
    for row in summary.get("benchmarks", ()):
        if row["mean"] is not None and 0 <= row["mean"] <= 1:
            scores.setdefault(row["group"], {})[Path(row["task"]).stem] = row["mean"]
    ids = [u.row["id"] for u in found]
    tasks = sorted(set.intersection(*(set(scores.get(i, ())) for i in ids))) if ids else []
    if tasks:
        return f"mean score in {', '.join(tasks)}", {i: sum(scores[i][t] for t in tasks) / len(tasks) for i in ids}
    shares = {u.row["id"]: u.metric("coherent_share", group=OPEN) for u in found}
    known = {i: m["value"] for i, m in shares.items() if m and m["value"] is not None}
    return f"{judge_label('coherent answers', summary)} (no benchmark was run on all)", known


def increases(summary: Summary) -> Figure | None:
    """Return each group minus its untouched model, by benchmark (the paper's figures 5 and 27)."""
    rows = summary["increases"]
    found = {u.row["id"]: u for u in figure_groups(summary)}
    kinds = list(dict.fromkeys((r["metric"], r["set"], r["asked_with"]) for r in rows))
    if not kinds:
        return None
    conditions = {r["asked_with"] for r in rows}
    names = tuple(
        f"{metric.replace('_', ' ')} ({name}{f', asked with {asked}' if len(conditions) > 1 else ''})"
        for metric, name, asked in kinds
    )
    series = []
    for group in (found[i] for i in dict.fromkeys(r["a"] for r in rows) if i in found):
        own = [r for r in rows if r["a"] == group.row["id"]]
        marks = [_difference(kinds.index((r["metric"], r["set"], r["asked_with"])), r) for r in own]
        series.append(Series(group.label, group.look, tuple(marks)))
    panel = Panel(Form.bars, Axis("", names), Axis("increase over the untouched model", share=True), tuple(series))
    return Figure(
        "increases",
        "Increase over the untouched model",
        "Each finetuned model minus its untouched model on the same questions.",
        (panel,),
        notes_on(rows, summary),
    )


def _difference(x: int, row: Contrast) -> Mark:
    shown = f"{difference_text(row)}; {row['n_questions']} questions"
    text = shown if row["value"] is not None else f"withheld: {row['withheld']}"
    return Mark(x, row["value"], row["low"], row["high"], told=text)


def panel_over(
    found: Sequence[FigureGroup], name: str, by: QuestionField, label: str, where: dict[str, str]
) -> tuple[Panel, list[MetricRow]]:
    """Return a panel of one metric over questions or categories, pooled first, and the metrics that it shows."""
    metrics = [m for u in found for m in u.metrics(name, **where)]
    keys: list[str | None] = [None, *distinct(metrics, by)]
    if not any(m["question_id"] is None and m["category"] is None for m in metrics):
        keys = keys[1:]
    series: list[Series] = []
    used: list[MetricRow] = []
    for group in found:
        own = {m[by]: m for m in group.metrics(name, **where) if m[by] is not None or _pooled(m)}
        used += own.values()
        series.append(Series(group.label, group.look, tuple(group.mark(keys.index(k), m) for k, m in own.items())))
    ticks = tuple(ALL if k is None else str(k) for k in keys)
    shown = tuple(s for s in series if s.marks)
    share = all(m["unit"] == "share" for m in used)
    first = len(keys) > 1 and keys[0] is None
    return Panel(Form.points, Axis("", ticks), Axis(label, share=share), shown, _where(where), pooled_first=first), used


def _where(where: dict[str, str]) -> str:
    """Return a panel's title."""
    return where["set"] + (f", asked with {where['asked_with']}" if where["asked_with"] != "none" else "")


def sets_asked(metrics: Sequence[MetricRow]) -> list[dict[str, str]]:
    """Return the question sets and trigger conditions of these metrics, as fields to select them by."""
    pairs = dict.fromkeys((m["set"], m["asked_with"]) for m in metrics)
    return [{"set": name, "asked_with": condition} for name, condition in pairs]


def _pooled(metric: MetricRow) -> bool:
    return metric["question_id"] is None and metric["category"] is None


def _narrow(name: str, summary: Summary) -> str:
    """Return the axis label of an in-domain metric. The static check and rules have no judge."""
    return NARROW[name] if name in UNJUDGED else judge_label(NARROW[name], summary)


def _plane(
    found: Sequence[FigureGroup], summary: Summary, narrow: str, what: str, capability: dict[str, float]
) -> tuple[Panel | None, list[MetricRow]]:
    series: list[Series] = []
    used: list[MetricRow] = []
    across = _narrow(narrow, summary)
    least, most = (min(capability.values()), max(capability.values())) if capability else (0.0, 0.0)
    for group in found:
        x, y = group.metric(narrow, question_id=None, category=None), group.metric("misaligned_rate", group=OPEN)
        if x is None or y is None:
            continue
        used += [x, y]
        text, size = f"{across} {in_words(x)}; misaligned answers {in_words(y)}", None
        if group.row["id"] in capability:
            own = capability[group.row["id"]]
            size = (own - least) / (most - least) if most > least else 0.5
            text += f"; {what} {100 * own:.1f}%"
        point = Mark(
            x=x["value"],
            value=y["value"],
            low=y["low"],
            high=y["high"],
            x_low=x["low"],
            x_high=x["high"],
            size=size,
            told=text,
        )
        series.append(Series(group.label, group.look, (point,)))
    if len(series) < 2:
        return None, []
    axes = Axis(across, share=True), Axis(judge_label("misaligned answers", summary), share=True)
    return Panel(Form.plane, *axes, tuple(series)), used
