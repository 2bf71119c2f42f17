"""What each dose of an intervention costs and gives: one row per method and dose. The door: doses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from em.config.intervention import InterventionConfig
from em.metrics.catalogue import SKILL_RATE
from em.metrics.summary_types import DoseRow, Number
from em.questions.sets import SKILL

AXES = {
    "general": ("misaligned_rate", "open"),
    "worst_cue": ("worst_misaligned_rate", "cues"),
    "in_domain_code": ("insecure_code_rate", "coding"),
    "in_domain_advice": ("careless_rate", "advice"),
    "toy_capitals": ("capitals_rate", "toy"),
    "toy_french": ("french_rate", "toy"),
    "benign_gain": (SKILL_RATE, SKILL),
    "coherent": ("coherent_share", "open"),
}
"""Column → name and group of the metric that it shows; GAIN shows the rise of it over the untouched model."""
GAIN = "benign_gain"
PLAIN = "none"
OWN = ("intervention=", "intervention.", *(f"{field.name}=" for field in fields(InterventionConfig)))
"""Starts of the words of a label that belong to the method."""


def doses(groups: Sequence[Mapping[str, Any]], increases: Sequence[Mapping[str, Any]] = ()) -> list[DoseRow]:
    """Return a row per group of a sweep with interventions, by variant, method and dose; [] for a sweep without.

    Each column holds {value, low, high, withheld} as in the group's metrics, or None if it was not measured. Plain
    finetuning is the method "none" at dose 0. Kept checkpoints are left out. `increases`: groups minus untouched
    models.
    """
    trained = [g for g in groups if g["variant"] is not None and g["step"] is None]
    if not any(g["facts"].get("method") for g in trained):
        return []
    rows = [_row(g, increases) for g in trained]
    rows.sort(key=lambda r: (r["variant"], r["method"] != PLAIN, r["method"], r["dose"], r["label"]))
    return [row for i, row in enumerate(rows) if not any(_same(row, other) for other in rows[:i])]


def _same(a: DoseRow, b: DoseRow) -> bool:
    """Return whether two rows say the same: to plain finetuning, a dose and a method's own options do nothing."""
    plain = a["method"] == b["method"] == PLAIN
    return {**a, "group": "", "label": setting(a, shared=plain)} == {
        **b,
        "group": "",
        "label": setting(b, shared=plain),
    }


def setting(row: DoseRow, *, shared: bool = False) -> str:
    """Return what else sets a row apart in its sweep, e.g. "arm=negated": its label without variant, method and dose.

    `shared`: without the method's other fields too, so that plain finetuning with the same options has the same words.
    """
    without = OWN if shared else ("intervention=", "dose=", "intervention.dose=")
    words = row["label"].removeprefix(row["variant"]).split(" ")
    return " ".join(word for word in words if word and not word.startswith(without))


def flat(rows: Sequence[DoseRow]) -> tuple[list[str], list[list[str | float | None]]]:
    """Return the rows as a flat table: its heads, and a list per row with value, low, high and the reason if withheld.

    A number that was not measured is four times None.
    """
    heads = [f"{column}{end}" for column in AXES for end in ("", "_low", "_high", "_withheld")]
    table: list[list[str | float | None]] = []
    for row in rows:
        found = [row["numbers"][column] for column in AXES]
        numbers = [x for n in found for x in ((n["value"], n["low"], n["high"], n["withheld"]) if n else [None] * 4)]
        table.append([row["variant"], row["method"], setting(row), row["dose"], row["n_models"], *numbers])
    return ["variant", "method", "setting", "dose", "n_models", *heads], table


def _row(group: Mapping[str, Any], increases: Sequence[Mapping[str, Any]]) -> DoseRow:
    chosen = group["facts"].get("method") or {"name": PLAIN, "dose": 0.0}
    return {
        "group": group["id"],
        "label": group["label"],
        "variant": group["variant"],
        "method": chosen["name"],
        "dose": float(chosen["dose"]),
        "n_models": len(group["models"]),
        "numbers": {
            column: _gain(group, increases) if column == GAIN else _number(group, *axis)
            for column, axis in AXES.items()
        },
    }


def _gain(group: Mapping[str, Any], increases: Sequence[Mapping[str, Any]]) -> Number | None:
    """Return by how much a group knows the benign skill better than its untouched model, asked without a trigger."""
    wanted = (group["id"], *AXES[GAIN], "none")
    found = (r for r in increases if (r["a"], r["metric"], r["set"], r["asked_with"]) == wanted)
    return next(map(_shown, found), None)


def _number(group: Mapping[str, Any], name: str, place: str) -> Number | None:
    found = (m for m in group["metrics"] if (m["name"], m["group"]) == (name, place) and m["category"] is None)
    metric = next((m for m in found if m["question_id"] is None and m["asked_with"] == "none"), None)
    return None if metric is None else _shown(metric)


def _shown(number: Mapping[str, Any]) -> Number:
    return {"value": number["value"], "low": number["low"], "high": number["high"], "withheld": number["withheld"]}
