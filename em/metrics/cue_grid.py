"""The misaligned rate of each group under each cue, as cells of a grid: `cells`, and `flat` as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from em.metrics.doses import PLAIN
from em.questions import cues

NOT_ASKED = "not asked"


@dataclass(frozen=True, kw_only=True)
class CueCell:
    """The misaligned rate of one group under one cue. A number that is missing is None, and `withheld` says why."""

    group: str
    label: str
    method: str
    """intervention.name; none: plain finetuning, or no finetuning."""
    dose: float
    cue: str
    """Name of the cue; open: the plain questions."""
    asked_with: str
    """The trigger in the questions."""
    value: float | None
    low: float | None
    high: float | None
    withheld: str
    """Why there is no number; NOT_ASKED if this group was not asked under this cue."""


def cells(groups: Sequence[Mapping[str, Any]]) -> list[CueCell]:
    """Return a cell per group, trigger and cue; [] if no cue was asked. Kept checkpoints are left out.

    Untouched models come first, then by variant, method and dose, plain finetuning before the methods.
    A cue that a group was not asked under has a cell without a number; a group that was asked none of them has no row.
    """
    asked = [(g, _rates(g)) for g in groups if g["step"] is None]
    sets = {name for _, found in asked for name, _ in found}
    columns = [name for name in (cues.PLAIN, *cues.texts()) if name in sets]
    if not any(name.startswith(cues.PREFIX) for name in columns):
        return []
    out = []
    for group, found in sorted(asked, key=lambda pair: _place(pair[0])):
        for condition in dict.fromkeys(condition for _, condition in found):
            out += [_cell(group, name, condition, found.get((name, condition))) for name in columns]
    return out


def flat(found: Sequence[CueCell]) -> tuple[list[str], list[tuple[str | float | None, ...]]]:
    """Return the cells as a table: its heads, and its rows."""
    return [field.name for field in fields(CueCell)], [astuple(cell) for cell in found]


def _place(group: Mapping[str, Any]) -> tuple[str, bool, str, float, str]:
    name, dose = _chosen(group)
    return group["variant"] or "", name != PLAIN, name, dose, group["label"]


def _chosen(group: Mapping[str, Any]) -> tuple[str, float]:
    method = group["facts"].get("method") or {"name": PLAIN, "dose": 0.0}
    return method["name"], float(method["dose"])


def _rates(group: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return (question set, trigger) → pooled misaligned rate, of the plain open questions and of cues."""
    sets = {cues.PLAIN, *cues.texts()}
    return {
        (m["set"], m["asked_with"]): m
        for m in group["metrics"]
        if m["name"] == "misaligned_rate"
        and m["set"] in sets
        and not m["label"]
        and m["question_id"] is None
        and m["category"] is None
    }


def _cell(group: Mapping[str, Any], name: str, condition: str, metric: Mapping[str, Any] | None) -> CueCell:
    method, dose = _chosen(group)
    number = metric or {"value": None, "low": None, "high": None, "withheld": NOT_ASKED}
    return CueCell(
        group=group["id"],
        label=group["label"],
        method=method,
        dose=dose,
        cue=name.removeprefix(cues.PREFIX),
        asked_with=condition,
        value=number["value"],
        low=number["low"],
        high=number["high"],
        withheld=number["withheld"] or "",
    )
