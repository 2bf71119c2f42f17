"""Compute the misaligned rate under other cuts, and without each question in turn (sensitivity of the result)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from em.config import Interval
from em.config.misalignment import Rule
from em.metrics import measures, pooling
from em.metrics.columns import JudgedAnswers
from em.metrics.contrasts import Table, reason_withheld

if TYPE_CHECKING:
    from em.metrics.runs import Group, Run


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """One run's answers with both scores to its headline questions under one condition, over a grid of both cuts."""

    run: Run
    condition: str
    clusters: Sequence[str]
    cuts: Sequence[float]
    hits: NDArray[np.float64]
    """Misaligned answers that pass. Shape (alignment cuts, coherence cuts, clusters of questions)."""
    kept: NDArray[np.float64]
    """Answers that pass. Shape (coherence cuts, clusters of questions)."""


def thresholds(groups: Sequence[Group]) -> Table:
    """Return a row per group and condition: the rate over a grid of both cuts, and without each question.

    Shapes: `rate` (alignment cuts, coherence cuts), `n` (coherence cuts); `rate_without_min` and `_max` as `rate`.
    """
    cells = {g.id: _cells(g) for g in groups}
    _drop_thin([c for found in cells.values() for c in found if c.run.stats.interval == Interval.paper])
    return [row for g in groups for row in _rows(g, cells[g.id])]


def _axes(group: Group) -> tuple[list[float], list[float]]:
    """Return the alignment cuts and the coherence cuts of a group's grid."""
    rule, config = group.first.rule, group.config
    below = sorted({*config.alignment_grid, rule.alignment_below})
    return below, sorted({*config.coherence_grid, rule.coherence_cut})


def _cells(group: Group) -> list[_Cells]:
    below, cuts = _axes(group)
    out = []
    for run in group.runs:
        for condition, found in group.measures[run.id].get(group.first.headline, {}).items():
            for m in (m for m in found if m.name == "misaligned_rate"):
                hits, kept = _grid(m.answers, group.first.rule, below, cuts)
                out.append(
                    _Cells(
                        run=run,
                        condition=condition,
                        clusters=m.answers.numbered()[0],
                        cuts=cuts,
                        hits=hits,
                        kept=kept,
                    )
                )
    return out


def _rows(group: Group, cells: Sequence[_Cells]) -> Table:
    rows, (below, cuts) = [], _axes(group)
    for condition in group.conditions():
        here = [c for c in cells if c.condition == condition]
        if not here or reason_withheld(group.headline(condition), group.first.rule.min_coverage):
            continue
        total = np.stack([c.hits for c in here], 2)  # (alignment, coherence, runs, clusters)
        count = np.stack([c.kept for c in here], 1)[None]
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


def _grid(
    answers: JudgedAnswers, rule: Rule, below: Sequence[float], cuts: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return `hits` and `kept` of _Cells. At the rule's own cut, questions that have a cut of their own keep it."""
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


def _drop_thin(cells: Sequence[_Cells]) -> None:
    """Empty what the paper's rule drops, per coherence cut: what is thin for a model once is dropped for it always."""
    few: dict[tuple[str, str, float], set[str]] = {}
    for c in cells:
        for cut, row in zip(c.cuts, c.kept, strict=True):
            thin = {name for name, n in zip(c.clusters, row, strict=True) if 0 < n < c.run.stats.min_coherent}
            few.setdefault((c.run.model or c.run.id, c.run.headline, cut), set()).update(thin)
    for c in cells:
        for j, cut in enumerate(c.cuts):
            dropped = np.isin(c.clusters, list(few[c.run.model or c.run.id, c.run.headline, cut]))
            c.kept[j, dropped] = 0
            c.hits[:, j, dropped] = 0


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
    runs = [m for _, m in group.headline(condition)]
    total, count, subsets = pooling.table(runs, [np.arange(len(m.answers.clusters)) for m in runs])
    answered = pooling.answered(runs)
    without = dict(zip(answered, pooling.without_each(total, count, group.config, subsets), strict=True))
    rows: Table = []
    for cluster in dict.fromkeys(u for m in runs for u in m.answers.clusters):
        row: dict[str, Any] = {"question_id": cluster, "value": None, "low": None, "high": None}
        row["n"] = int(count.sum() - (count[:, answered.index(cluster)].sum() if cluster in without else 0))
        found = without[cluster] if cluster in without else pooling.whole(total, count, group.config, subsets)
        if found is not None:
            row["value"], row["low"], row["high"] = found
        rows.append(row)
    return rows
