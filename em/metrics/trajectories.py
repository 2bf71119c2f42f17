"""metrics.trajectories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from em.metrics.runs import Group


def trigger_matrix(groups: Sequence[Group], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Trained with × asked with, of the headline rate; None when nothing was asked with a trigger."""
    asked = list(dict.fromkeys(c for g in groups for c in g.conditions()))
    if len(asked) < 2:
        return None
    cells = []
    for group, row in zip(groups, rows, strict=True):
        for m in row["metrics"]:
            pooled = m["question_id"] is None and m["category"] is None
            if m["name"] == "misaligned_rate" and m["set"] == group.first.headline and pooled:
                cell = {"trained_with": row["trained_with"], "asked_with": m["asked_with"], "group": group.id}
                cell["label"] = row["label"]
                cells.append(cell | {k: m[k] for k in ("value", "low", "high", "n", "n_models", "withheld")})
    trained = list(dict.fromkeys(c["trained_with"] for c in cells))
    return {"trained_with": trained, "asked_with": asked, "cells": cells}


def trajectories(
    groups: Sequence[Group], rows: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Every pooled metric over training steps, of each setting that has checkpoints; the untouched model is step 0.

    Steps of a second phase are its own, and it begins with a finetuned model: it has no step 0.
    """
    steps: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    continued: set[str] = set()
    for group, row in zip(groups, rows, strict=True):
        run = group.first
        step = run.step if run.step is not None else (run.train or {}).get("steps")
        if run.line and step is not None:
            steps.setdefault(run.line, []).append((int(step), row))
            if (run.train or {}).get("intervention", {}).get("name") == "realign":
                continued.add(run.line)
    out, by_id = [], {row["id"]: row for row in rows}
    for line, found in steps.items():
        if not any(row["step"] is not None for _, row in found):
            continue
        last = next((row for _, row in found if row["step"] is None), found[-1][1])
        base = [(0, by_id[last["base"]])] if last["base"] in by_id and line not in continued else []
        ordered = sorted([*base, *found], key=lambda pair: pair[0])
        keys = dict.fromkeys(_key(m) for _, row in found for m in row["metrics"] if _pooled(m))
        out += [_trajectory(key, ordered, last, models) for key in keys]
    return out


def _pooled(metric: Mapping[str, Any]) -> bool:
    return metric["question_id"] is None and metric["category"] is None


def _key(metric: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(metric[k] for k in ("name", "label", "set", "asked_with", "unit"))


def _trajectory(
    key: tuple[str, ...],
    ordered: Sequence[tuple[int, Mapping[str, Any]]],
    last: Mapping[str, Any],
    models: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    points = []
    for step, row in ordered:
        metric = next((m for m in row["metrics"] if _pooled(m) and _key(m) == key), None)
        if metric is None:
            continue
        own = [m for model in models if model["id"] in row["models"] for m in model["metrics"]]
        values = [m["value"] for m in own if _pooled(m) and _key(m) == key and m["value"] is not None]
        ends = {"min": min(values, default=None), "max": max(values, default=None)}
        kept = {k: metric[k] for k in ("value", "low", "high", "n", "n_models", "withheld")}
        points.append({"step": step, **kept, **ends})
    name, label, set_name, asked_with, unit = key
    about = {"label": last["label"], "variant": last["variant"], "name": name, "of": label}
    return {**about, "set": set_name, "asked_with": asked_with, "unit": unit, "points": points}
