"""Find the numbers of a summary, and write them as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from em.metrics.summary_types import CountedNumber, MeasuredRow, MetricRow, Number, RuleRow

NO_REASON = "no reason was recorded"


def find_metric(model: MeasuredRow, name: str, group: str) -> MetricRow | None:
    """Return the metric of a model or group with this name and `group`; None if it was not measured."""
    return next((m for m in model.get("metrics") or [] if m["name"] == name and m["group"] == group), None)


def pooled(model: MeasuredRow, name: str) -> MetricRow | None:
    """Return the first metric with this name over all questions of a set, or None."""
    named = (m for m in model.get("metrics") or [] if m["name"] == name)
    return next((m for m in named if m["question_id"] is None and m["category"] is None), None)


def cut_of(rule: RuleRow, question_id: str) -> float:
    """Return the coherence cut (0-100) of a question under a rule: its own cut if it has one."""
    return float((rule.get("own_cuts") or {}).get(question_id, rule["coherence_cut"]))


def metric_text(metric: Number) -> str:
    """Return a metric with its interval in its unit: '12.3% [8.1, 17.9]', '63.0', '-1.20 nats'; or 'withheld'."""
    value, unit = metric["value"], metric.get("unit", "share")
    if value is None:
        return "withheld"
    if unit == "share":
        return f"{100 * value:.1f}%" + interval_text(metric)
    digits, low, high = 1 if unit in ("score", "words") else 2, metric["low"], metric["high"]
    between = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{between}" + (" nats" if unit == "nats" else "")


def difference_text(contrast: Number) -> str:
    """Return a difference of two shares in percentage points: '+12.0 points [3.1, 20.4]'; or 'withheld'."""
    if contrast["value"] is None:
        return "withheld"
    return f"{100 * contrast['value']:+.1f} points" + interval_text(contrast)


def interval_text(number: Number) -> str:
    """Return ' [3.1, 20.4]' in percent; '' without an interval."""
    if number["low"] is None or number["high"] is None:
        return ""
    return f" [{100 * number['low']:.1f}, {100 * number['high']:.1f}]"


def excluded_text(metric: Mapping[str, Any]) -> str:
    """Return why answers were left out, the most frequent reason first: 'incoherent 12, refusal 1'."""
    counts = sorted((metric.get("excluded") or {}).items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{reason} {count}" for reason, count in counts if count)


def in_words(metric: CountedNumber) -> str:
    """Return the text beside a drawn number: value, interval, its kind, n, models, left out; or why withheld."""
    if metric["value"] is None:
        return f"withheld: {metric.get('withheld') or NO_REASON}"
    parts = [metric_text(metric), f"n = {metric['n']}"]
    if metric["low"] is not None and metric.get("interval"):
        parts.insert(1, metric["interval"])
    if metric.get("n_models", 1) > 1:
        parts.append(f"{metric['n_models']} models")
    if excluded_text(metric):
        parts.append(f"left out: {excluded_text(metric)}")
    return "; ".join(parts)
