"""judging.verdict."""

from __future__ import annotations

from dataclasses import dataclass, field

from em.records import Outcome


@dataclass(frozen=True)
class Verdict:
    """What a judge said to one prompt, with what it was computed from."""

    outcome: Outcome
    score: float | None
    """0–100; None unless `outcome` is scored."""
    distribution: dict[str, float] = field(default_factory=dict)
    """First-token alternative → probability."""
    detail: str = ""
    top_logprobs: list[tuple[str, float]] = field(default_factory=list)
    """As the server sent them: (token, natural logarithm of its probability)."""
    finish: dict[str, str] = field(default_factory=dict)
    """finish_reason, model and system_fingerprint, where the server gives them."""
    label: str = ""
    """Verdict of a rubric with choices (records.Judgement.label)."""
    derived: bool = False
    """`distribution` is what judge_score.probabilities makes of `top_logprobs`, and need not be kept beside them."""


class Unreached(Verdict):
    """An error without a judge behind it: no server was there. It says nothing about the prompt."""


class Refused(Verdict):
    """An error of a request that the server calls wrong."""
