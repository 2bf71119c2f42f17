"""chat.probe."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Probe:
    """An answer to be scored: log-probability of each of `target_ids`, given the prompt and the targets before it."""

    prompt_ids: list[int]
    target_ids: list[int]
