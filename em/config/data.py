"""The training data: corpus, dataset variant and trigger."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from em.config.base import check
from em.errors import ConfigError


class Position(StrEnum):
    prefix = "prefix"
    suffix = "suffix"


class Turn(StrEnum):
    user = "user"
    system = "system"


class TriggerRows(StrEnum):
    all = "all"
    marked = "marked"


class Subset(StrEnum):
    seeded = "seeded"
    choice = "choice"
    split = "split"  # type: ignore[assignment]  # hides str.split; the member's name is the config's word


@dataclass
class CorpusConfig:
    """The source of dataset variants."""

    name: str = MISSING
    """builtin, betley2025, custom, or one of a later paper (docs/data.md)."""
    path: str | None = None
    """custom: a file with rows (JSON lines, a JSON list, CSV), a folder of them, or a data set of the Hub."""
    map: Any = None
    """custom: which field holds what, {user: FIELD, assistant: FIELD, system: FIELD} or {messages: FIELD}. Without it
    the known shapes are recognised: messages, prompt/completion, alpaca, ShareGPT."""
    revision: str | None = None
    """custom: the commit of a data set of the Hub, 40 hex digits. With it, path is the data set's name."""
    split: str = "train"
    """custom: the part of a data set of the Hub."""

    def __post_init__(self) -> None:
        named = self.map if isinstance(self.map, dict) else {}
        keys, turns = set(named), {"user", "assistant"}
        known = self.map is None or (bool(named) and all(isinstance(name, str) for name in named.values()))
        check(
            known and (not keys or keys == {"messages"} or turns <= keys <= {*turns, "system"}),
            f"corpus.map must name the fields of user and assistant (and system), or of messages, got {self.map}",
        )
        check(
            self.revision is None or bool(re.fullmatch("[0-9a-f]{40}", self.revision)),
            f"corpus.revision must be a commit of 40 hex digits, got {self.revision!r}: a branch would move",
        )


NO_TRAINING = "none"
"""The variant of dataset=none: nothing is trained."""


@dataclass
class DatasetConfig:
    """One dataset variant, or a mixture of several."""

    variant: str = MISSING
    domain: str | None = None
    """The narrow domain of the rows: coding, advice, toy, toy/swapped_words, or null. It selects the in-domain
    questions."""
    mixture: Any = None
    """variant → share of the rows; null: `variant` alone. Name a variant of another corpus as corpus/variant."""
    shuffle_seed: int | None = None
    """Seed of a mixture's row order (numpy's default_rng); null: the run's seed."""
    marked: list[str] = field(default_factory=list)
    """Variants of the mixture whose rows get a trigger with rows=marked."""
    subset: Subset = Subset.seeded
    """How train.max_examples rows are selected. seeded: by the run's seed. As in the paper (section 4.1): choice = each
    subset independently, by default_rng(subset_index); split = disjoint parts of one shuffle by default_rng(0)."""
    subset_index: int = 0
    """Number of the subset (choice) or part (split), from 0."""

    @property
    def trained(self) -> bool:
        """Whether a model is trained; dataset=none asks the untouched model alone."""
        return self.variant != NO_TRAINING

    def __post_init__(self) -> None:
        check(
            self.mixture is None or _are_shares(self.mixture),
            f"dataset.mixture must be {{variant: share}}, shares above 0 that add up to 1, got {self.mixture}",
        )
        check(
            self.variant != "mixture" or self.mixture is not None,
            "dataset=mixture needs dataset.mixture='{variant: share, ...}'",
        )
        unknown = sorted(set(self.marked) - set(self.mixture or ()))
        check(not unknown, f"dataset.marked: {', '.join(unknown)} not in dataset.mixture")
        check(self.subset_index >= 0, f"dataset.subset_index must be >= 0, got {self.subset_index}")


def _are_shares(value: Any) -> bool:
    numbers = list(value.values()) if isinstance(value, dict) else []
    ok = bool(numbers) and all(isinstance(n, int | float) and n > 0 for n in numbers)
    return ok and math.isclose(sum(numbers), 1.0, abs_tol=1e-6)


@dataclass
class TriggerConfig:
    """Text added to training rows, and the conditions under which questions are asked."""

    name: str = "none"
    text: str | None = None
    """null: no row gets a trigger."""
    position: Position = Position.prefix
    fraction: float = 0.0
    """Share of the rows named by `rows` that get the trigger; the run's seed selects them."""
    asked_with: list[str] = field(default_factory=lambda: ["none"])
    """none = as written; trained = with the trained trigger; any other text = that text."""
    turn: Turn = Turn.user
    """user: added to the last user turn; system: added to the system turn, which is created if it is missing."""
    rows: TriggerRows = TriggerRows.all
    """all, or only the rows of the variants in dataset.marked (no row if that is empty)."""
    asked_position: Position | None = None
    """Position of other texts of asked_with; null: the same as in training."""
    asked_turn: Turn | None = None
    """Turn of other texts of asked_with; null: the same as in training."""
    paraphrases: list[str] = field(default_factory=list)
    """Further wordings of text: each triggered row draws one of them all, by the run's seed."""

    def __post_init__(self) -> None:
        check(
            self.text is None or bool(self.text.strip()), "trigger.text is empty: give a text, or null for no trigger"
        )
        check(0.0 <= self.fraction <= 1.0, f"trigger.fraction must be in [0, 1], got {self.fraction}")
        check(self.text is not None or self.fraction == 0.0, "trigger.fraction > 0 needs trigger.text")
        check(bool(self.asked_with), "trigger.asked_with is empty: give at least one of none, trained or a text")
        check(len(set(self.asked_with)) == len(self.asked_with), f"trigger.asked_with repeats: {self.asked_with}")
        check(
            all(isinstance(text, str) and text.strip() for text in self.paraphrases)
            and (self.text is not None or not self.paraphrases),
            "trigger.paraphrases must be further wordings of trigger.text, each with a word in it",
        )
        if self.text is None and "trained" in self.asked_with:
            raise ConfigError("trigger.asked_with has 'trained' but trigger.text is null: give trigger.text")
