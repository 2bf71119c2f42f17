"""Groups held against each other on the same questions, and the headline rate under other thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from em.metrics import measures, pooling, stats
from em.metrics.catalogue import Place
from em.metrics.measures import Measure

if TYPE_CHECKING:
    from em.metrics.runs import Group, What


Table = list[dict[str, Any]]
REGISTER_MATCHED = ("risky_advice", "curt_careful_advice")
"""Careless against careful advice in the same tone. Compared in every sweep that has both, besides stats.contrasts."""


def between_groups(groups: Sequence[Group]) -> Table:
    """Contrast finished groups under every condition, and each group with and without its trigger.

    Pairs: those of stats.contrasts and the register-matched one, then every group against the first option of each
    swept axis. A pair of runs is one test, also if they have several names.
    """
    final = [g for g in groups if g.first.variant is not None and g.first.step is None]
    rows, seen, runs = [], set(), _first_of_same(final)
    for a, b in [*_named(final), *_against_first(final)]:
        pair = frozenset((runs[a.id], runs[b.id]))
        if len(pair) == 2 and pair not in seen and a.first.headline == b.first.headline:
            seen.add(pair)
            both = [w for w in a.compared() if w in b.compared()]
            rows += [_contrast(a, b, c, c, w) for w in both for c in a.conditions() if c in b.conditions()]
    for group in final:
        asked = group.conditions()
        rows += [_contrast(group, group, other, asked[0], w) for w in group.compared() for other in asked[1:]]
    return _family(rows, "contrasts")


def _first_of_same(groups: Sequence[Group]) -> dict[str, str]:
    """Return group id → id of the first group of the same runs, e.g. of plain finetuning as dose 0 of two methods.

    Runs whose answers are counted by another rule, or whose answers are not known, are not the same.
    """
    known: list[tuple[Any, str]] = []
    for group in groups:
        answers = sorted(run.answers for run in group.runs)
        own = (answers if all(answers) else group.id, group.first.rule, group.first.headline)
        known.append((own, next((first for other, first in known if other == own), group.id)))
    return {group.id: first for group, (_, first) in zip(groups, known, strict=True)}


def _named(final: Sequence[Group]) -> Iterator[tuple[Group, Group]]:
    """Yield the pairs of stats.contrasts and the register-matched one: two labels, or variants alike in all else."""
    named = [tuple(pair) for g in final for pair in g.config.contrasts]
    for left, right in dict.fromkeys([*named, REGISTER_MATCHED]):
        for a in final:
            for b in final:
                variants, labels = (a.first.variant, b.first.variant), (a.first.group_label, b.first.group_label)
                alike = variants == (left, right) and a.first.peers == b.first.peers
                if alike or labels == (left, right) != variants:
                    yield a, b


def _against_first(final: Sequence[Group]) -> Iterator[tuple[Group, Group]]:
    """Yield each group with the one that has the sweep's first option of one axis and is the same in all others."""
    for axis in dict.fromkeys(name for g in final for name in g.first.axes):
        first = next(g.first.axes[axis] for g in final if axis in g.first.axes)
        for a in final:
            if a.first.axes.get(axis, first) != first:
                wanted = {**a.first.axes, axis: first}
                yield from ((a, b) for b in final if dict(b.first.axes) == wanted)


def over_untouched(groups: Sequence[Group], group_of: Mapping[str, str]) -> Table:
    """Every group minus its untouched model, under every condition both were asked."""
    by_id, rows = {g.id: g for g in groups}, []
    for group in groups:
        base = by_id.get(group_of.get(group.first.base or "", ""))
        if group.first.variant is not None and group.first.step is None and base:
            both = [w for w in group.compared() if w in base.compared()]
            rows += [
                _contrast(group, base, c, c, w) for w in both for c in group.conditions() if c in base.conditions()
            ]
    return _family(rows, "increases")


def _family(rows: Table, name: str) -> Table:
    """Holm's p over the rows that have one."""
    tested = [row for row in rows if row["p"] is not None]
    for row, adjusted in zip(tested, stats.holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = adjusted
    for row in rows:
        row["family"] = f"{name}: {len(tested)} tests"
    return rows


def _contrast(a: Group, b: Group, condition: str, other: str, what: What) -> dict[str, Any]:
    """a under `condition` minus b under `other`, in one measure."""
    names = [g.first.group_label for g in (a, b)]
    conditions = condition if condition == other else f"{condition} - {other}"
    first = condition == other == a.conditions()[0]
    name = f"{names[0]} - {names[1]}" if a is not b else names[0]
    name += f", {what.label}" if what.label else ""
    headline = what.set_name == a.first.headline
    row: dict[str, Any] = {
        "name": name if first else f"{name}, asked with {conditions}",
        "a": a.id,
        "b": b.id,
        "metric": what.label or what.name,
        "group": Place(what.set_name, conditions, first and headline).group,
        "set": what.set_name,
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
    sides = [a.measured(what, condition), b.measured(what, other)]
    row["withheld"] = reason_withheld([*sides[0], *sides[1]], a.first.rule.min_coverage)
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


def reason_withheld(side: Sequence[tuple[str, Measure]], least: float) -> str:
    if not side:
        return "the question set has no misaligned rate"
    for label, one in side:
        found = measures.gap(one, np.arange(len(one.answers.ids)), least)
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
        return pooling.merged(total, subsets), pooling.merged(count, subsets)

    return side(a), side(b)
