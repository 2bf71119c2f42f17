"""Which rows of a summary a figure is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from em.reporting.figures.spec import Look, Mark, mark
from em.reporting.figures.style import looks

Metric = dict[str, Any]
OPEN = "open"
"""`group` of the headline metric: the first open question set under its first condition (docs/summary.md)."""


@dataclass(frozen=True)
class FigureGroup:
    """One group of the summary at the end of its training: a variant and setting with all its seeds."""

    row: dict[str, Any]
    look: Look
    models: tuple[dict[str, Any], ...]
    """Its runs, as rows of summary["models"]."""

    @property
    def label(self) -> str:
        return self.row["label"]

    @property
    def untouched(self) -> bool:
        return self.row["variant"] is None

    def metrics(self, name: str, **fields: Any) -> list[Metric]:
        """Its metrics of that name with these fields, withheld ones too."""
        return [m for m in self.row["metrics"] if m["name"] == name and all(m[k] == v for k, v in fields.items())]

    def metric(self, name: str, **fields: Any) -> Metric | None:
        return next(iter(self.metrics(name, **fields)), None)

    def mark(self, x: float, metric: Metric, **more: Any) -> Mark:
        """The metric as a mark: the single runs behind it as dots, and the answers it was made of."""
        same = ("name", "group", "label")
        own = [m for model in self.models for m in model["metrics"] if all(m[k] == metric[k] for k in same)]
        values = [m["value"] for m in own if m["value"] is not None]
        answers = {
            "models": [m["label"] for m in self.models],
            "set": metric["set"],
            "asked_with": metric["asked_with"],
            "question": metric["question_id"],
        }
        dots = tuple(values) if len(values) > 1 else ()
        return mark(x, metric, dots=dots, answers={k: v for k, v in answers.items() if v}, **more)


def figure_groups(summary: dict[str, Any]) -> list[FigureGroup]:
    """The groups of a summary that have numbers, checkpoints left out."""
    rows = [g for g in summary["groups"] if g["step"] is None]
    look, by_id = looks(rows), {m["id"]: m for m in summary["models"]}
    return [FigureGroup(g, look[g["id"]], tuple(by_id[i] for i in g["models"])) for g in rows if g["metrics"]]


def headline(found: Sequence[FigureGroup]) -> dict[str, str] | None:
    """`set` and `asked_with` of the headline rate; None when no open question was asked."""
    for group in found:
        if metric := group.metric("misaligned_rate", group=OPEN):
            return {"set": metric["set"], "asked_with": metric["asked_with"]}
    return None


def distinct(metrics: Sequence[Metric], field: str) -> list[Any]:
    """The values of a field that are not null, in the order they first appear."""
    return list(dict.fromkeys(m[field] for m in metrics if m[field] is not None))
