"""What a reader found in answers of a recipe (readings.yaml), for the statement of a sweep with that recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

READINGS = Path(__file__).parent / "readings.yaml"


@dataclass(frozen=True)
class Reading:
    """One arm's answers, read shuffled among those of the other arms, without labels."""

    variant: str | None
    """None: the untouched model."""
    read: int
    """Answers read."""
    coherent: int
    careless: int
    """Coherent answers that are careless, selfish or unkind."""


@cache
def _file() -> tuple[dict[str, Any], tuple[Reading, ...]]:
    """Return the recipe's facts, as a group has them, and the readings. Raises TypeError for an unknown field."""
    file = yaml.safe_load(READINGS.read_text(encoding="utf-8"))
    return file["recipe"], tuple(Reading(**row) for row in file["arms"])


def readings_of(summary: Mapping[str, Any]) -> list[Reading]:
    """Return the readings of the summary's arms that have the recipe of what was read.

    The untouched model's is there only beside one of these.
    """
    recipe, arms = _file()
    own = {g["variant"] for g in summary.get("groups") or [] if _same(recipe, g)}
    trained = [arm for arm in arms if arm.variant is not None and arm.variant in own]
    return [*(arm for arm in arms if arm.variant is None), *trained] if trained else []


def _same(recipe: Mapping[str, Any], group: Mapping[str, Any]) -> bool:
    """Return whether a trained group has every fact of the recipe, and the arm's rows by their pin."""
    given = group.get("facts") or {}
    facts = {**(given.get("train") or {}), **given}
    plain = {name: value for name, value in recipe.items() if name != "data"}
    same = all(facts.get(name) == value for name, value in plain.items())
    return same and facts.get("data") == recipe["data"].get(group["variant"])


def sentence(summary: Mapping[str, Any]) -> str:
    """Return what the reader found, beside what the judge counts; "" if no arm's recipe was read."""
    found = readings_of(summary)
    if not found:
        return ""
    parts = [
        f"of {arm.variant or 'the untouched model'} {arm.coherent} of {arm.read} coherent, "
        f"{arm.careless} of these careless or unkind"
        for arm in found
    ]
    return (
        f"What a reader finds: in an earlier run of this recipe, its answers shuffled and read without labels, "
        f"{'; '.join(parts)}. Where few are coherent, the judge's number is mostly about broken answers."
    )
