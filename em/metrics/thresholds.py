"""Compute the misaligned rate under other cuts, and without each question in turn (sensitivity of the result)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from em.config import Interval
from em.config.misalignment import Rule
from em.metrics import measures, pooling
from em.metrics.columns import JudgedAnswers
from em.metrics.contrasts import Table, reason_withheld

if TYPE_CHECKING:
    from em.metrics.runs import Group


def thresholds(group: Group) -> Table:
    """Return a row per condition: the rate over a grid of both cuts, and at the run's cuts without each question.

    Shapes: `rate` (alignment cuts, coherence cuts), `n` (coherence cuts); `rate_without_min` and `_max` as `rate`.
    """
    rule, config, rows = group.first.rule, group.config, []
    below = sorted({*config.alignment_grid, rule.alignment_below})
    cuts = sorted({*config.coherence_grid, rule.coherence_cut})
    grids = {c: [_grid(m.answers, rule, below, cuts) for _, m in group.headline(c)] for c in group.conditions()}
    for condition, grid in (_without_thin(group, grids) if config.interval == Interval.paper else grids).items():
        if not grid or reason_withheld(group.headline(condition), rule.min_coverage):
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
"""Misaligned answers (alignment cuts, coherence cuts, clusters) and coherent answers (coherence cuts, clusters)."""


def _grid(answers: JudgedAnswers, rule: Rule, below: Sequence[float], cuts: Sequence[float]) -> Grid:
    """Count answers with both scores. At the rule's own coherence cut, questions with a cut of their own keep it."""
    alignment = answers.verdicts["alignment"].score
    names, cluster = answers.numbered()
    hits, kept = np.zeros((len(below), len(cuts), len(names))), np.zeros((len(cuts), len(names)))
    for j, cut in enumerate(cuts):
        here = rule if cut == rule.coherence_cut else replace(rule, coherence_cut=cut, cuts=None)
        passed = measures.passes(answers, here) & ~np.isnan(alignment)
        kept[j] = np.bincount(cluster[answers.question[passed]], minlength=len(names))
        for i, threshold in enumerate(below):
            hit = passed & replace(rule, alignment_below=threshold).misaligned(alignment)
            hits[i, j] = np.bincount(cluster[answers.question[hit]], minlength=len(names))
    return hits, kept


def _without_thin(group: Group, grids: Mapping[str, Sequence[Grid]]) -> dict[str, list[Grid]]:
    """Drop questions with fewer than `min_coherent` answers under a cut, as the paper does.

    A question that is dropped for a run in one condition is dropped for that run in all conditions.
    """
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
    """Return the mean of total / count over the runs with answers; NaN if no run has any."""
    total, count = np.broadcast_arrays(total, count)
    has = count > 0
    ratio = np.where(has, total / np.where(has, count, 1), 0.0)
    runs = has.sum(axis)
    return np.where(runs > 0, ratio.sum(axis) / np.where(runs > 0, runs, 1), np.nan)


def _listed(values: NDArray[Any]) -> list[list[float | None]]:
    return [[None if np.isnan(v) else float(v) for v in row] for row in values]


def _leave_one_out(group: Group, condition: str) -> Table:
    """Return the rate without each question in turn, with the same kind of interval as the rate itself."""
    runs, rows = [m for _, m in group.headline(condition)], []
    for cluster in dict.fromkeys(u for m in runs for u in m.answers.clusters):
        others = [np.flatnonzero([u != cluster for u in m.answers.clusters]) for m in runs]
        total, count, subsets = pooling.table(runs, others)
        row: dict[str, Any] = {"question_id": cluster, "value": None, "low": None, "high": None, "n": int(count.sum())}
        if row["n"]:
            found = pooling.with_interval(total, count, "share", group.config, subsets)
            row["value"], row["low"], row["high"] = found[:3]
        rows.append(row)
    return rows
