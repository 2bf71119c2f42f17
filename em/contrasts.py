"""Groups held against each other on the same questions, and the headline rate under other thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from em import metrics, rates, stats
from em.metrics import JudgedAnswers, Measure, Rule
from em.rates import Place
from em.schema.stats import Interval

if TYPE_CHECKING:
    from em.summary import Group

Table = list[dict[str, Any]]


def between_variants(groups: Sequence[Group]) -> Table:
    """The pairs of stats.contrasts under every condition, and with minus without the trigger of each group."""
    final = [g for g in groups if g.first.variant is not None and g.first.step is None]
    rows = []
    for left, right in dict.fromkeys(tuple(pair) for g in final for pair in g.config.contrasts):
        for a in final:
            for b in final:
                same = a.first.peers == b.first.peers and a.first.headline == b.first.headline
                if (a.first.variant, b.first.variant) == (left, right) and same:
                    rows += [_contrast(a, b, c, c) for c in a.conditions() if c in b.conditions()]
    for group in final:
        asked = group.conditions()
        rows += [_contrast(group, group, other, asked[0]) for other in asked[1:]]
    return _family(rows, "contrasts")


def over_untouched(groups: Sequence[Group], group_of: Mapping[str, str]) -> Table:
    """Every group minus its untouched model, under every condition both were asked."""
    by_id, rows = {g.id: g for g in groups}, []
    for group in groups:
        base = by_id.get(group_of.get(group.first.base or "", ""))
        if group.first.variant is not None and group.first.step is None and base:
            rows += [_contrast(group, base, c, c) for c in group.conditions() if c in base.conditions()]
    return _family(rows, "increases")


def _family(rows: Table, name: str) -> Table:
    """Holm's p over the rows that have one."""
    tested = [row for row in rows if row["p"] is not None]
    for row, adjusted in zip(tested, stats.holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = adjusted
    for row in rows:
        row["family"] = f"{name}: {len(tested)} tests"
    return rows


def _contrast(a: Group, b: Group, condition: str, other: str) -> dict[str, Any]:
    """a under `condition` minus b under `other`."""
    names = [g.first.group_label for g in (a, b)]
    conditions = condition if condition == other else f"{condition} - {other}"
    first = condition == other == a.conditions()[0]
    name = f"{names[0]} - {names[1]}" if a is not b else names[0]
    row: dict[str, Any] = {
        "name": name if first else f"{name}, asked with {conditions}",
        "a": a.id,
        "b": b.id,
        "metric": "misaligned_rate",
        "group": Place(a.first.headline, conditions, first).group,
        "set": a.first.headline,
        "asked_with": conditions,
        "value": None,
        "low": None,
        "high": None,
        "n_questions": 0,
        "n_models": [len(a.runs), len(b.runs)],
        "interval": "none",
        "claim": "",
        "cohens_h": None,
        "p": None,
        "p_holm": None,
        "withheld": "",
    }
    sides = [a.headline(condition), b.headline(other)]
    row["withheld"] = _reason([*sides[0], *sides[1]], a.first.rule.min_coverage)
    if row["withheld"]:
        return row
    left, right = aligned([m for _, m in sides[0]], [m for _, m in sides[1]])
    found = stats.contrast(*left, *right)
    if found is None:
        return row | {"withheld": "fewer than two questions have an answer in the denominator on both sides"}
    return row | {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "n_questions": found.questions,
        "interval": found.interval,
        "claim": found.claim,
        "cohens_h": found.cohens_h,
        "p": found.p,
    }


def _reason(side: Sequence[tuple[str, Measure]], least: float) -> str:
    if not side:
        return "the question set has no misaligned rate"
    for label, one in side:
        found = metrics.gap(one, np.arange(len(one.answers.ids)), least)
        if found:
            return f"{label}: {found}"
    return ""


def aligned(
    a: Sequence[Measure], b: Sequence[Measure]
) -> tuple[tuple[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]:
    """(total, count) of both sides, runs (or their subsets) × questions' clusters, the same clusters in one order."""
    clusters = [
        u for u in dict.fromkeys(u for m in a for u in m.answers.clusters) if all(u in m.answers.clusters for m in b)
    ]
    place = {u: i for i, u in enumerate(clusters)}

    def side(runs: Sequence[Measure]) -> tuple[NDArray[Any], NDArray[Any]]:
        total, count = np.zeros((len(runs), len(clusters))), np.zeros((len(runs), len(clusters)))
        for row, m in enumerate(runs):
            for i, cluster in enumerate(m.answers.clusters):
                if cluster in place:
                    total[row, place[cluster]] += m.total[i]
                    count[row, place[cluster]] += m.count[i]
        subsets = [m.subset for m in runs]
        return rates.merged(total, subsets), rates.merged(count, subsets)

    return side(a), side(b)


def thresholds(group: Group) -> Table:
    """The headline rate over a grid of both cuts, and at the run's own cuts without any one question."""
    rule, config, rows = group.first.rule, group.config, []
    below = sorted({*config.alignment_grid, rule.alignment_below})
    cuts = sorted({*config.coherence_grid, rule.coherence_cut})
    grids = {c: [_grid(m.answers, rule, below, cuts) for _, m in group.headline(c)] for c in group.conditions()}
    for condition, grid in (_without_thin(group, grids) if config.interval == Interval.paper else grids).items():
        if not grid or _reason(group.headline(condition), rule.min_coverage):
            continue
        hits, kept = zip(*grid, strict=True)
        total, count = np.stack(hits, 2), np.stack(kept, 1)[None]  # (alignment, coherence, runs, clusters)
        whole = _mean_ratio(total.sum(-1), count.sum(-1))
        without = _mean_ratio(total.sum(-1)[..., None] - total, count.sum(-1)[..., None] - count, axis=-2)
        few = np.isnan(without).all(-1)
        ends = [
            np.where(few, np.nan, f(np.where(few[..., None], 0.0, without), axis=-1)) for f in (np.nanmin, np.nanmax)
        ]
        rows.append(
            {
                "group": group.id,
                "label": group.first.group_label,
                "set": group.first.headline,
                "asked_with": condition,
                "alignment_below": below,
                "coherence_cut": cuts,
                "rate": _listed(whole),
                "n": [int(n) for n in count[0].sum((-2, -1))],
                "rate_without_min": _listed(ends[0]),
                "rate_without_max": _listed(ends[1]),
                "leave_one_out": _leave_one_out(group, condition),
            }
        )
    return rows


Grid = tuple[NDArray[Any], NDArray[Any]]
"""(alignment, coherence, clusters) hits and (coherence, clusters) answers that pass."""


def _grid(answers: JudgedAnswers, rule: Rule, below: Sequence[float], cuts: Sequence[float]) -> Grid:
    """Of answers with both scores. At the rule's own cut, questions that have a cut of their own keep it."""
    alignment = answers.verdicts["alignment"].score
    names, cluster = answers.numbered()
    hits, kept = np.zeros((len(below), len(cuts), len(names))), np.zeros((len(cuts), len(names)))
    for j, cut in enumerate(cuts):
        here = rule if cut == rule.coherence_cut else replace(rule, coherence_cut=cut, cuts=None)
        passed = metrics.passes(answers, here) & ~np.isnan(alignment)
        kept[j] = np.bincount(cluster[answers.question[passed]], minlength=len(names))
        for i, threshold in enumerate(below):
            hit = passed & replace(rule, alignment_below=threshold).misaligned(alignment)
            hits[i, j] = np.bincount(cluster[answers.question[hit]], minlength=len(names))
    return hits, kept


def _without_thin(group: Group, grids: Mapping[str, Sequence[Grid]]) -> dict[str, list[Grid]]:
    """The paper's rule under every cut: what is thin for a run in one condition is dropped for it in all."""
    labels = {c: [label for label, _ in group.headline(c)] for c in grids}
    thin: dict[str, NDArray[np.bool_]] = {}
    for condition, found in grids.items():
        for label, (_, kept) in zip(labels[condition], found, strict=True):
            thin[label] = thin.get(label, False) | (kept < group.config.min_coherent)
    return {
        c: [
            (np.where(thin[label], 0, hits), np.where(thin[label], 0, kept))
            for label, (hits, kept) in zip(labels[c], found, strict=True)
        ]
        for c, found in grids.items()
    }


def _mean_ratio(total: NDArray[Any], count: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    """Mean over runs of total / count, of those that have answers; NaN without any."""
    total, count = np.broadcast_arrays(total, count)
    has = count > 0
    ratio = np.where(has, total / np.where(has, count, 1), 0.0)
    runs = has.sum(axis)
    return np.where(runs > 0, ratio.sum(axis) / np.where(runs > 0, runs, 1), np.nan)


def _listed(values: NDArray[Any]) -> list[list[float | None]]:
    return [[None if np.isnan(v) else float(v) for v in row] for row in values]


def _leave_one_out(group: Group, condition: str) -> Table:
    """The headline rate without each question in turn, with the interval of the rate itself."""
    runs, rows = [m for _, m in group.headline(condition)], []
    for cluster in dict.fromkeys(u for m in runs for u in m.answers.clusters):
        others = [np.flatnonzero([u != cluster for u in m.answers.clusters]) for m in runs]
        total, count, subsets = rates.table(runs, others)
        row: dict[str, Any] = {"question_id": cluster, "value": None, "low": None, "high": None, "n": int(count.sum())}
        if row["n"]:
            found = rates.with_interval(total, count, "share", group.config, subsets)
            row["value"], row["low"], row["high"] = found[:3]
        rows.append(row)
    return rows
