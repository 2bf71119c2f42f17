"""Select the rows of a summary that a figure shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from em.metrics.summary_types import GroupRow, MetricRow, ModelRow, Summary
from em.reporting.figures.spec import AnswerFilter, Look, Mark, mark
from em.reporting.figures.style import looks

OPEN = "open"
"""`group` of the headline metric: the first open question set under its first condition (docs/summary.md)."""


@dataclass(frozen=True)
class FigureGroup:
    """A group of the summary at the end of its training: a variant and setting with all its seeds."""

    row: GroupRow
    look: Look
    models: tuple[ModelRow, ...]
    """The group's runs."""

    @property
    def label(self) -> str:
        return self.row["label"]

    @property
    def untouched(self) -> bool:
        return self.row["variant"] is None

    def metrics(self, name: str, **fields: str | None) -> list[MetricRow]:
        """Return the metrics with this name and these fields, withheld ones too."""
        return [m for m in self.row["metrics"] if m["name"] == name and _has(m, fields)]

    def metric(self, name: str, **fields: str | None) -> MetricRow | None:
        """Return the first metric with this name and these fields, or None."""
        return next(iter(self.metrics(name, **fields)), None)

    def mark(self, x: float, metric: MetricRow) -> Mark:
        """Return the metric as a mark, with the values of its single runs as dots, and the answers behind it."""
        same = {"name": metric["name"], "group": metric["group"], "label": metric["label"]}
        own = [m for model in self.models for m in model["metrics"] if _has(m, same)]
        values = [m["value"] for m in own if m["value"] is not None]
        answers: dict[str, str | list[str] | None] = {
            "models": [m["label"] for m in self.models],
            "set": metric["set"],
            "asked_with": metric["asked_with"],
            "question": metric["question_id"],
        }
        filters: AnswerFilter = {k: v for k, v in answers.items() if v}
        return mark(x, metric, tuple(values) if len(values) > 1 else (), filters)


def _has(metric: Mapping[str, Any], fields: Mapping[str, str | None]) -> bool:
    return all(metric[name] == value for name, value in fields.items())


def figure_groups(summary: Summary) -> list[FigureGroup]:
    """Return the groups of a summary that have numbers, without checkpoints."""
    rows = [g for g in summary["groups"] if g["step"] is None]
    look, by_id = looks(rows), {m["id"]: m for m in summary["models"]}
    return [FigureGroup(g, look[g["id"]], tuple(by_id[i] for i in g["models"])) for g in rows if g["metrics"]]


def headline(found: Sequence[FigureGroup]) -> dict[str, str] | None:
    """Return `set` and `asked_with` of the headline rate; None if no open question was asked."""
    for group in found:
        if metric := group.metric("misaligned_rate", group=OPEN):
            return {"set": metric["set"], "asked_with": metric["asked_with"]}
    return None


def distinct(metrics: Sequence[Mapping[str, Any]], field: str) -> list[str]:
    """Return the values of a text field, without null, in the order they first appear."""
    return list(dict.fromkeys(m[field] for m in metrics if m[field] is not None))
