"""Pool the measures of one or several runs over questions into one number with its interval. The door: pools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em.config import Interval, StatsConfig
from em.config.misalignment import Rule
from em.metrics import measures, stats
from em.metrics.catalogue import IN_DOMAIN_SETS, Place
from em.metrics.columns import JudgedAnswers
from em.metrics.measures import Measure
from em.questions.grouping import FACTS
from em.records import Metric

NO_INTERVAL = "none: one run and one question have no spread"
NO_SPREAD = "none: the same everywhere"


@dataclass(frozen=True)
class Pool:
    """The same measure of several runs, and where it is shown."""

    runs: Sequence[tuple[str, Measure]]
    """(label, measure) per run."""
    place: Place
    rule: Rule
    config: StatsConfig

    def metrics(self) -> list[Metric]:
        """Return the metric over all questions, then by category, then by cluster if questions are shown one by one."""
        one = self.runs[0][1]
        out = [self.metric()]
        categories = [c for c in dict.fromkeys(one.answers.categories) if c is not None]
        out += [self.metric(category=c) for c in categories]
        several = self.place.set_name not in IN_DOMAIN_SETS and not (categories and FACTS in one.answers.verdicts)
        if several and one.name in ("misaligned_rate", "other_company_rate"):
            out += [self.metric(question_id=u) for u in dict.fromkeys(one.answers.clusters)]
        return out

    def metric(self, category: str | None = None, question_id: str | None = None) -> Metric:
        """Return the metric over the chosen questions, with the reason if it is withheld."""
        one = self.runs[0][1]
        about = f"{self.place.group}/{question_id}" if question_id is not None else self.place.group
        about = f"{about} of {category}" if category is not None else about
        chosen = [_chosen(m.answers, category, question_id) for _, m in self.runs]
        excluded: dict[str, int] = {}
        for (_, m), which in zip(self.runs, chosen, strict=True):
            for reason, counts in m.excluded.items():
                if counts[which].sum():
                    excluded[reason] = excluded.get(reason, 0) + int(counts[which].sum())
        total, count, subsets = table([m for _, m in self.runs], chosen)
        n = int(count.sum())
        withheld = Metric(
            name=one.name,
            group=about,
            value=None,
            low=None,
            high=None,
            n=n,
            n_models=len(total),
            interval="none",
            excluded=excluded,
            withheld=self._reason(chosen, n),
            set=self.place.set_name,
            asked_with=self.place.asked_with,
            question_id=question_id,
            category=category,
            label=one.label,
            unit=one.unit,
        )
        if withheld.withheld:
            return withheld
        value, low, high, words, bounds = with_interval(total, count, one.unit, self.config, subsets)
        return replace(
            withheld,
            value=value,
            low=low,
            high=high,
            interval=words,
            n_questions=int(count.shape[1]),
            bounds=bounds,
        )

    def _reason(self, chosen: Sequence[NDArray[np.intp]], n: int) -> str:
        """Return why there is no number, or ""."""
        for (label, m), which in zip(self.runs, chosen, strict=True):
            found = measures.gap(m, which, self.rule.min_coverage)
            if found:
                return f"{label}: {found}" if len(self.runs) > 1 else found
        return "" if n else "no answer is left in the denominator"


def _chosen(answers: JudgedAnswers, category: str | None, question_id: str | None) -> NDArray[np.intp]:
    pairs = zip(answers.categories, answers.clusters, strict=True)
    return np.flatnonzero([category in (None, c) and question_id in (None, u) for c, u in pairs])


def table(
    runs: Sequence[Measure], chosen: Sequence[NDArray[np.intp]]
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Return (total, count, subset per run); total and count have shape (runs, clusters of questions).

    Runs and clusters without an answer in the denominator are left out.
    """
    names = list(dict.fromkeys(m.answers.clusters[i] for m, which in zip(runs, chosen, strict=True) for i in which))
    place = {name: i for i, name in enumerate(names)}
    total, count = np.zeros((len(runs), len(names))), np.zeros((len(runs), len(names)))
    for row, (m, which) in enumerate(zip(runs, chosen, strict=True)):
        columns = [place[m.answers.clusters[i]] for i in which]
        np.add.at(total[row], columns, m.total[which])
        np.add.at(count[row], columns, m.count[which])
    rows, some = count.sum(1) > 0, count.sum(0) > 0
    return (
        total[rows][:, some],
        count[rows][:, some],
        [m.subset for m, has in zip(runs, rows, strict=True) if has],
    )


def answered(runs: Sequence[Measure]) -> list[str]:
    """Return the clusters that have an answer in the denominator, in the order of table()."""
    pairs = [(u, n) for m in runs for u, n in zip(m.answers.clusters, m.count, strict=True)]
    has = {u for u, n in pairs if n}
    return [u for u in dict.fromkeys(u for u, _ in pairs) if u in has]


def merged(rows: NDArray[Any], subsets: Sequence[str]) -> NDArray[Any]:
    """Add up the runs of one subset: (runs, clusters) → (subsets, clusters). Unchanged if no run has a subset."""
    if not any(subsets):
        return rows
    names = list(dict.fromkeys(subsets))
    return np.array([rows[[c == name for c in subsets]].sum(0) for name in names])


def with_interval(
    total: NDArray[Any], count: NDArray[Any], unit: str, config: StatsConfig, subsets: Sequence[str] = ()
) -> tuple[float, float | None, float | None, str, dict[str, list[float]]]:
    """Return (value, low, high, the interval in words, kind → bounds) of a table of shape (runs, clusters)."""
    models = total.sum(1) / count.sum(1)
    total, count = merged(total, subsets), merged(count, subsets)
    values = total.sum(1) / count.sum(1)
    kinds = stats.kinds(count, unit)
    bounds = {k: list(stats.interval(total, count, k, unit)) for k in kinds}
    if len(models) > 1:
        bounds["paper"] = list(stats.paper_interval(models))
    if config.interval == Interval.bootstrap:
        bounds["bootstrap"] = list(stats.bootstrap(total, count, config.replicates))
    wanted = config.interval.value if config.interval != Interval.honest else (kinds or [""])[-1]
    if wanted not in bounds:
        words = "none: the paper's interval needs several models" if wanted == "paper" else NO_INTERVAL
        return float(values.mean()), None, None, words, bounds
    low, high = bounds[wanted]
    if low == high:  # a mean score can be the same everywhere; the interval of a share always has a length
        return float(values.mean()), None, None, NO_SPREAD, bounds
    named = stats.SUBSETS if any(subsets) and wanted in stats.SUBSETS else stats.KINDS
    return float(values.mean()), low, high, named[wanted][0], bounds


def whole(
    total: NDArray[Any], count: NDArray[Any], config: StatsConfig, subsets: Sequence[str]
) -> tuple[float, float | None, float | None] | None:
    """Return (rate, low, high) of a table (runs, clusters) in which some have no answer; None if none has."""
    runs, clusters = count.sum(1) > 0, count.sum(0) > 0
    if not runs.any():
        return None
    own = [name for name, has in zip(subsets, runs, strict=False) if has]
    return with_interval(total[runs][:, clusters], count[runs][:, clusters], "share", config, own)[:3]


def without_each(
    total: NDArray[Any], count: NDArray[Any], config: StatsConfig, subsets: Sequence[str] = ()
) -> list[tuple[float, float | None, float | None] | None]:
    """Return (rate, low, high) of a table (runs, clusters) without each cluster in turn; None if no answer is left."""
    size = count.shape[1]
    keep = 1 - np.eye(size)[:, None]
    hits, answers = merged(total, subsets), merged(count, subsets)
    kind = (stats.kinds(answers[:, 1:]) or [""])[-1] if config.interval == Interval.honest and size > 1 else ""
    if kind not in stats.POOLED or ((count * keep).sum(2) == 0).any():
        return [whole(total * one, count * one, config, subsets) for one in keep]
    values = (hits * keep).sum(2) / (answers * keep).sum(2)
    low, high = stats.intervals(hits * keep, answers * keep, kind)
    return list(zip(values.mean(1).tolist(), low.tolist(), high.tolist(), strict=True))


def pools(
    runs: Sequence[tuple[str, Mapping[str, list[Measure]]]],
    place: Callable[[str], Place],
    rule: Rule,
    config: StatsConfig,
) -> list[Pool]:
    """Return one pool per condition and metric. `runs`: (label, condition → measures of the same set) per run."""
    out = []
    for condition in dict.fromkeys(c for _, by_condition in runs for c in by_condition):
        keys = dict.fromkeys((m.name, m.label) for _, by in runs for m in by.get(condition, ()))
        for key in keys:
            same = [(label, m) for label, by in runs for m in by.get(condition, ()) if (m.name, m.label) == key]
            out.append(Pool(same, place(condition), rule, config))
    return out
