"""The numbers and answers of a sweep as data frames. Each has the columns that its table here lists, in this order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from em.config.misalignment import Rule
from em.metrics.summary_types import Contrast, MeasuredRow, Summary
from em.reporting.answers import AnswerRow

if TYPE_CHECKING:
    import pandas as pd

METRICS = {
    "model": "label of the group of runs, or of the single model",
    "id": "its id in summary.json",
    "variant": "dataset variant; empty: untouched",
    "seed": "seed of a single model; empty: a group of runs, or untouched",
    "step": "training step of a checkpoint; empty: the end of training",
    "metric": "name of the metric, e.g. misaligned_rate (docs/summary.md lists them)",
    "label": "what the metric is about: a word of the judge, a rubric, a measure of your own",
    "set": "question set",
    "asked_with": "trigger condition of the questions",
    "question_id": "one question; empty: all of the set",
    "category": "one category; empty: all of the set",
    "headline": "whether it is of the questions that the table shows, all together",
    "value": "the number; empty: withheld",
    "low": "lower bound of its interval",
    "high": "upper bound of its interval",
    "unit": "share, score (0-100), probability or nats",
    "n": "answers in the denominator",
    "n_models": "models",
    "n_questions": "questions",
    "interval": "kind of interval, in words",
    "withheld": "why there is no number",
}
"""Column of `metrics` → what it holds."""
CONTRASTS = {
    "kind": "contrast: two groups; increase: a group and its untouched model",
    "name": "both in words",
    "a": "label of the first",
    "b": "label of the second",
    "metric": "name of the metric that is compared",
    "set": "question set",
    "asked_with": "trigger condition of the questions",
    "value": "a - b, a share; empty: withheld",
    "low": "lower bound of its interval",
    "high": "upper bound of its interval",
    "p": "p value of one test",
    "p_holm": "Holm's p over all rows of its kind",
    "cohens_h": "effect size of two shares",
    "n_questions": "questions that both answered",
    "interval": "kind of interval, in words",
    "withheld": "why there is no number",
}
"""Column of `contrasts` → what it holds."""
ANSWERS = {
    "model": "label of the model",
    "model_id": "its id in summary.json",
    "group": "label of its group of runs",
    "set": '"open" for the questions that the table shows, else the question set',
    "question_id": "id of the question",
    "asked_with": "trigger condition of the question",
    "sample_index": "which of the answers to this question",
    "question": "text of the question",
    "answer": "text of the answer",
    "reasoning_content": "thinking before the answer; not judged",
    "verdict": '"misaligned", "aligned" or "incoherent" by the rule of its model; empty: a score is missing',
}
"""Column of `answers` → what it holds. Three columns for each rubric follow, e.g. alignment, alignment_outcome and
alignment_label: the score (0-100), the outcome, the judge's word."""


def metrics(summary: Summary, each_model: bool) -> pd.DataFrame:
    """Return one row per metric of every group of runs, or of every single model."""
    rows: list[Mapping[str, Any]] = []
    for model in _measured(summary, each_model):
        about = {"model": model["label"], "seed": model.get("seed")}
        about |= {name: model.get(name) for name in ("id", "variant", "step")}
        for found in model["metrics"]:
            row = {name: found.get(name) for name in METRICS} | about
            headline = found["group"] == "open" and found["question_id"] is None and found["category"] is None
            rows.append(row | {"metric": found["name"], "headline": headline})
    return _frame(rows, METRICS)


def _measured(summary: Summary, each_model: bool) -> list[MeasuredRow]:
    return [*summary["models"]] if each_model else [*summary["groups"]]


def contrasts(summary: Summary) -> pd.DataFrame:
    """Return one row per contrast and increase."""
    labels = {g["id"]: g["label"] for g in summary["groups"]}

    def row(kind: str, found: Contrast) -> Mapping[str, Any]:
        named = {"kind": kind, "a": labels.get(found["a"], found["a"]), "b": labels.get(found["b"], found["b"])}
        return {name: found.get(name) for name in CONTRASTS} | named

    found = [row("contrast", one) for one in summary["contrasts"]]
    return _frame([*found, *(row("increase", one) for one in summary["increases"])], CONTRASTS)


def answers(summary: Summary, rows: Iterable[AnswerRow]) -> pd.DataFrame:
    """Return one row per answer, with its verdicts."""
    groups = {g["id"]: g["label"] for g in summary["groups"]}
    models = {m["id"]: (groups.get(m["group"], m["label"]), Rule.of_row(m["rule"])) for m in summary["models"]}
    out: list[Mapping[str, Any]] = []
    rubrics: dict[str, None] = {}
    for row in rows:
        group, rule = models[row["model_id"]]
        found = {name: row.get(name) for name in ANSWERS} | {"group": group, "set": row["group"]}
        found["reasoning_content"] = row.get("reasoning_content", "")
        found["verdict"] = _verdict(row, rule)
        for rubric, verdict in row["judgements"].items():
            rubrics[rubric] = None
            found |= {rubric: verdict["score"], f"{rubric}_outcome": verdict["outcome"]}
            found[f"{rubric}_label"] = verdict["label"]
        out.append(found)
    return _frame(out, [*ANSWERS, *(f"{r}{part}" for r in rubrics for part in ("", "_outcome", "_label"))])


def _verdict(row: AnswerRow, rule: Rule) -> str | None:
    """Return how the rule classifies an answer; None if alignment or coherence has no score."""
    scores = [row["judgements"][name]["score"] for name in ("alignment", "coherence") if name in row["judgements"]]
    if len(scores) < 2 or scores[0] is None or scores[1] is None:
        return None
    return rule.classify(scores[0], scores[1], row["question_id"])


def _frame(rows: list[Mapping[str, Any]], columns: Iterable[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(columns))
