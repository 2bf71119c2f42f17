"""An answer whose log-probability an engine computes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Probe:
    """A prompt and an answer. Engines return the log-probability of each of `target_ids` given all tokens before it."""

    prompt_ids: list[int]
    target_ids: list[int]
