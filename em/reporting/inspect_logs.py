"""Export a sweep's answers as Inspect logs. Needs the extra `inspect`.

Inspect's viewer shows them: `inspect view --log-dir FOLDER`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalLog,
    EvalMetric,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
    EvalStats,
    write_eval_log,
)
from inspect_ai.model import ChatMessageUser, ContentReasoning, ContentText, ModelOutput
from inspect_ai.scorer import Score

from em.config.misalignment import Rule
from em.metrics.counted import word
from em.metrics.summary_types import MetricRow, ModelRow, Summary
from em.reporting.answers import AnswerRow, VerdictRow
from em.reporting.text import find_metric
from em.store.jsonl import Row

RATE = "misaligned"
"""The scorer that is the table's rate: 1 for a misaligned answer, 0 for an aligned one."""
LIKELY = 3
"""Most entries of the judge's distribution in an explanation."""


@dataclass(frozen=True)
class SweepFacts:
    """What a log says about a sweep that its summary does not."""

    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Model id → resolved config; empty for an imported file."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Model id → key of its training."""
    started: str = ""
    """ISO time; empty: when the summary was written."""


def write_inspect(rows: Iterable[AnswerRow], summary: Summary, folder: Path, facts: SweepFacts) -> list[Path]:
    """Write a log (`.eval`) per model, with a sample per answer and a score per rubric. Return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    models = {m["id"]: m for m in summary["models"]}
    by_model: dict[str, list[EvalSample]] = {}
    for row in rows:
        rule = Rule.of_row(models[row["model_id"]]["rule"])
        by_model.setdefault(row["model_id"], []).append(_sample(row, rule, summary["judge"]["name"], word(summary)))
    paths = []
    for model_id, samples in by_model.items():
        path = folder / f"{summary['id']}-{model_id}.eval"
        write_eval_log(_log(samples, models[model_id], summary, facts), str(path))
        paths.append(path)
    return paths


def _sample(row: AnswerRow, rule: Rule, judge: str, counts: str) -> EvalSample:
    thinking = row.get("reasoning_content")
    parts = [ContentReasoning(reasoning=thinking), ContentText(text=row["answer"])] if thinking else row["answer"]
    output = ModelOutput.from_content(row["model"], parts)
    scores = {rubric: _score(verdict, row["answer"], judge) for rubric, verdict in row["judgements"].items()}
    if {"alignment", "coherence"} <= set(scores):
        scores = {RATE: _rate(row, rule, counts), **scores}
    return EvalSample(
        id=f"{row['group']}/{row['question_id']}/{row['asked_with']}",
        epoch=row["sample_index"] + 1,
        input=row["question"],
        target="",
        messages=[ChatMessageUser(content=row["question"]), output.message],
        output=output,
        scores=scores,
        metadata={"group": row["group"], "asked_with": row["asked_with"]},
    )


def _rate(row: AnswerRow, rule: Rule, counts: str) -> Score:
    """Return whether the answer counts as misaligned; without a score if it is in no denominator."""
    alignment, coherence = (row["judgements"][name] for name in ("alignment", "coherence"))
    if alignment["score"] is None or coherence["score"] is None:
        missing = "alignment" if alignment["score"] is None else "coherence"
        outcome = row["judgements"][missing]["outcome"]
        return Score.unscored(reason=outcome, answer=row["answer"], explanation=f"{missing}: {outcome}")
    found = rule.classify(alignment["score"], coherence["score"], row["question_id"])
    passes = ">=" if rule.coherence_inclusive else ">"
    why = (
        f"{found}: alignment {alignment['score']:g} (the rule: < {rule.alignment_below:g}), coherence "
        f"{coherence['score']:g} (the rule: {passes} {rule.cut(row['question_id']):g}). The rate counts: {counts}"
    )
    if found == "incoherent":
        return Score.unscored(reason=found, answer=row["answer"], explanation=why)
    return Score(value=float(found == "misaligned"), answer=row["answer"], explanation=why)


def _score(verdict: VerdictRow, answer: str, judge: str) -> Score:
    """Return the score: the number, else the judge's label; without a score if there is neither."""
    value = verdict["score"] if verdict["score"] is not None else verdict.get("label") or None
    metadata = {"outcome": verdict["outcome"], "distribution": verdict.get("distribution") or {}}
    likely = sorted((verdict.get("distribution") or {}).items(), key=lambda pair: -pair[1])[:LIKELY]
    told = [f"judge {judge}: {verdict['outcome'] if value is None else value}"]
    told += [", ".join(f"{name} {weight:.3g}" for name, weight in likely)] if likely else []
    explanation = "; ".join([*told, *([verdict["detail"]] if verdict.get("detail") else [])])
    if value is None:
        outcome = verdict["outcome"]
        return Score.unscored(reason=outcome, answer=answer, explanation=explanation, metadata=metadata)
    return Score(value=value, answer=answer, explanation=explanation, metadata=metadata)


def _log(samples: Sequence[EvalSample], model: ModelRow, summary: Summary, facts: SweepFacts) -> EvalLog:
    names = dict.fromkeys(name for sample in samples for name in sample.scores or {})
    scorers = sorted(names, key=lambda name: name != RATE)  # the viewer shows the first one's score
    ids, epochs = {sample.id for sample in samples}, max(sample.epoch for sample in samples)
    even = len(ids) * epochs == len(samples)  # else the viewer would wait for the others
    config = facts.configs.get(model["id"], {})
    base = config.get("model", {}).get("path", summary["model"]["name"])
    spec = EvalSpec(
        created=summary["created"],
        task="emergent_misalignment",
        task_args=dict(config),
        model=model["label"],
        model_args={"base": base, "adapter": facts.adapters.get(model["id"])},
        dataset=EvalDataset(name=summary["id"], samples=len(ids) if even else len(samples)),
        config=EvalConfig(epochs=epochs if even else None),
        packages=summary["versions"],
        scorers=[{"name": name} for name in scorers],
        metadata={"sweep": summary["id"], "judge": summary["judge"], "commit": summary["commit"]},
    )
    results = EvalResults(
        total_samples=len(samples),
        completed_samples=len(samples),
        scores=[_result(name, samples, model) for name in scorers],
    )
    stats = EvalStats(started_at=facts.started or summary["created"], completed_at=summary["created"])
    return EvalLog(status="success", eval=spec, results=results, stats=stats, samples=list(samples))


def _result(name: str, samples: Sequence[EvalSample], model: ModelRow) -> EvalScore:
    """Return a scorer's result: the table's rate with its interval, or the mean of a rubric's scores."""
    values = [sample.scores[name].value for sample in samples if sample.scores and name in sample.scores]
    numbers = [float(v) for v in values if isinstance(v, int | float) and v == v]  # NaN: without a score
    counts = {"scored_samples": len(numbers), "unscored_samples": len(values) - len(numbers)}
    if name != RATE:
        mean = {"mean": sum(numbers) / len(numbers)} if numbers else {}
        return EvalScore(name=name, scorer=name, metrics=_metrics(mean), **counts)
    rate = find_metric(model, "misaligned_rate", "open")
    return EvalScore(name=name, scorer=name, metrics=_metrics(_bounds(rate)), metadata=_why(rate), **counts)


def _bounds(rate: MetricRow | None) -> dict[str, float]:
    """Return the rate of the headline questions with its interval; empty if it is withheld."""
    parts = {"rate": "value", "low": "low", "high": "high", "n": "n"}
    if rate is None or rate["value"] is None:
        return {}
    return {name: value for name, part in parts.items() if (value := rate[part]) is not None}  # type: ignore[literal-required]


def _why(rate: MetricRow | None) -> Row:
    """Return what the rate is of, or why it is withheld."""
    if rate is None:
        return {"withheld": "no headline rate"}
    return {"set": rate["set"], "interval": rate.get("interval", ""), "withheld": rate.get("withheld", "")}


def _metrics(values: Mapping[str, float]) -> dict[str, EvalMetric]:
    return {name: EvalMetric(name=name, value=value) for name, value in values.items()}
