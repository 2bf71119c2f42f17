"""The numbers of a summary: how they are found, and how they read as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Number = Mapping[str, Any]
"""A metric or contrast as it stands in summary.json: value, low, high, n, interval, excluded, withheld."""


def find_metric(model: Mapping[str, Any], name: str, group: str) -> dict[str, Any] | None:
    """The model's metric of that name about that group, or None when it was not measured."""
    return next((m for m in model.get("metrics") or [] if m["name"] == name and m["group"] == group), None)


def pooled(model: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The model's first metric of that name over all questions of a set, or None."""
    named = (m for m in model.get("metrics") or [] if m["name"] == name)
    return next((m for m in named if m["question_id"] is None and m["category"] is None), None)


def cut_of(rule: Mapping[str, Any], question_id: str) -> float:
    """The coherence cut of a question under the rule of a group or model: its own, where it has one."""
    return float((rule.get("own_cuts") or {}).get(question_id, rule["coherence_cut"]))


def shown(metric: Number) -> str:
    """A metric with its interval, in its unit: '12.3% [8.1, 17.9]', '63.0', '-1.20 nats'; or 'withheld'."""
    value, unit = metric["value"], metric.get("unit", "share")
    if value is None:
        return "withheld"
    if unit == "share":
        return f"{100 * value:.1f}%" + interval(metric)
    digits = 1 if unit == "score" else 2
    bounds = [metric["low"], metric["high"]]
    between = "" if None in bounds else f" [{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"
    return f"{value:.{digits}f}{between}" + (" nats" if unit == "nats" else "")


def signed(contrast: Number) -> str:
    """A difference of two shares, in percentage points: '+12.0 points [3.1, 20.4]'."""
    if contrast["value"] is None:
        return "withheld"
    return f"{100 * contrast['value']:+.1f} points" + interval(contrast)


def interval(number: Number) -> str:
    """' [3.1, 20.4]' in percent; '' when there is none."""
    if number["low"] is None or number["high"] is None:
        return ""
    return f" [{100 * number['low']:.1f}, {100 * number['high']:.1f}]"


def excluded(metric: Number) -> str:
    """'incoherent 12, refusal 1', the most frequent reason first."""
    counts = sorted((metric.get("excluded") or {}).items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{reason} {count}" for reason, count in counts if count)


def in_words(metric: Number) -> str:
    """Return what stands beside a drawn number: value, interval, denominator, what was left out, or why withheld."""
    if metric["value"] is None:
        return f"withheld: {metric.get('withheld') or 'no reason was recorded'}"
    parts = [shown(metric), f"n = {metric['n']}"]
    if metric.get("n_models", 1) > 1:
        parts.append(f"{metric['n_models']} models")
    if excluded(metric):
        parts.append(f"left out: {excluded(metric)}")
    return "; ".join(parts)
