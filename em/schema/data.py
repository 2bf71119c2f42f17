"""What is trained on and how questions are triggered: corpus, dataset variant, trigger."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from omegaconf import MISSING

from em.schema.base import ConfigError, check


class Position(StrEnum):
    prefix = "prefix"
    suffix = "suffix"


@dataclass
class CorpusConfig:
    """Where dataset variants come from."""

    name: str = MISSING
    """builtin, betley2025 or custom."""
    path: str | None = None
    """custom: a chat JSONL file, one {"messages": [...]} a line."""


@dataclass
class DatasetConfig:
    """One dataset variant."""

    variant: str = MISSING
    domain: str | None = None
    """What it narrowly teaches: coding, advice, or null; picks the in-domain questions."""


@dataclass
class TriggerConfig:
    """Text put into training rows, and the conditions questions are asked under."""

    name: str = "none"
    text: str | None = None
    """null: no row is triggered."""
    position: Position = Position.prefix
    fraction: float = 0.0
    """Share of rows that carry the trigger, chosen by the run's seed."""
    asked_with: list[str] = field(default_factory=lambda: ["none"])
    """none = as written; trained = with the trained trigger; any other text = that text in the trigger's place."""

    def __post_init__(self) -> None:
        check(self.text is None or bool(self.text.strip()), "trigger.text is empty: give a text, or null for none")
        check(0.0 <= self.fraction <= 1.0, f"trigger.fraction must lie in [0, 1], got {self.fraction}")
        check(self.text is not None or self.fraction == 0.0, "trigger.fraction > 0 needs trigger.text")
        check(bool(self.asked_with), "trigger.asked_with is empty: give at least one of none, trained or a text")
        check(len(set(self.asked_with)) == len(self.asked_with), f"trigger.asked_with repeats: {self.asked_with}")
        if self.text is None and "trained" in self.asked_with:
            raise ConfigError("trigger.asked_with has 'trained' but trigger.text is null: give trigger.text")
