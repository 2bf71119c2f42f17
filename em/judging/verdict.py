"""What a judge replied to one prompt (`Verdict`), before it is tied to an answer and a rubric (records.Judgement)."""

from __future__ import annotations

from dataclasses import dataclass, field

from em.records import Outcome


@dataclass(frozen=True)
class Verdict:
    """A judge's score, label or failure for one prompt, with the values it was computed from."""

    outcome: Outcome
    score: float | None
    """0–100; None unless `outcome` is scored."""
    distribution: dict[str, float] = field(default_factory=dict)
    """First-token alternative → probability."""
    detail: str = ""
    top_logprobs: list[tuple[str, float]] = field(default_factory=list)
    """As the server sent them: (token, natural logarithm of its probability)."""
    finish: dict[str, str] = field(default_factory=dict)
    """finish_reason, model and system_fingerprint, as far as the server gives them."""
    label: str = ""
    """Label of a rubric with choices (records.Judgement.label)."""
    derived: bool = False
    """Whether read_score.probabilities recomputes `distribution` from `top_logprobs`, so that the cache can drop it."""


class Unreached(Verdict):
    """An error without any server. It says nothing about the prompt."""


class Refused(Verdict):
    """An error of a request that the server calls wrong."""
