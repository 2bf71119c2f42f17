"""The row types that cross stages, and how they are written: one JSON object a line."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

LONGEST_ANSWER = 10_000_000
"""Characters of a field in a CSV file of answers."""
Message = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""


@dataclass(frozen=True)
class Example:
    """One training row."""

    id: str
    messages: list[Message]
    triggered: bool = False


@dataclass(frozen=True)
class Question:
    """One thing to ask. `rubrics` names what its answers are judged by."""

    id: str
    group: str
    """The question set, e.g. "open" or "coding"."""
    messages: list[Message]
    rubrics: list[str]
    samples: int = 1
    """Answers to draw when the config does not say otherwise."""
    least_tokens: int = 0
    """Room an answer gets whatever sample.max_tokens says: a program cut short cannot be judged."""
    judge_prompts: dict[str, str] = field(default_factory=dict)
    """rubric → prompt with {question} and {answer}; empty: the project's own rubric files."""
    choices: dict[str, list[str]] = field(default_factory=dict)
    """rubric → the labels its judge may answer, e.g. ["YES", "NO"], for a rubric that is not a 0–100 score. A rubric of
    the project's own knows its choices itself (questions/rubrics.py)."""
    reference: dict[str, str] = field(default_factory=dict)
    """Facts the rubric may need, e.g. the CWE of a coding task."""
    entry: str = ""
    """Id of the file's entry this is one of several paraphrases of; empty: the entry itself."""


@dataclass(frozen=True)
class Completion:
    """One answer of one model to one question."""

    question_id: str
    sample_index: int
    asked_with: str
    """Name of the trigger condition the question was asked under; "none" without one."""
    messages: list[Message]
    text: str
    finish_reason: str
    """"stop", "length" or "content_filter", as the engine says; "thinking": it ended before its thinking did."""
    token_count: int
    """Thinking included."""
    seed: int
    reasoning_content: str = ""
    """What the model thought before it answered (chat/thinking.py); not judged."""

    @property
    def id(self) -> str:
        return f"{self.question_id}/{self.asked_with}/{self.sample_index}"


class Outcome(StrEnum):
    """What became of one judgement. Only `scored` carries a number, only `labelled` a word."""

    scored = "scored"
    labelled = "labelled"
    refusal = "refusal"
    code = "code"
    filtered = "filtered"
    unparseable = "unparseable"
    error = "error"
    unfinished = "unfinished"
    """There is no answer: the model ended inside its thinking."""


@dataclass(frozen=True)
class Judgement:
    """One rubric's verdict on one completion."""

    completion_id: str
    question_id: str
    rubric: str
    outcome: Outcome
    score: float | None
    """On the rubric's own scale (0–100); None unless `outcome` is scored. Never a default."""
    distribution: dict[str, float] = field(default_factory=dict)
    """What the score was computed from: token → probability, or named parts of a proxy."""
    detail: str = ""
    label: str = ""
    """The word of a judge with choices, one of them exactly as the rubric writes it, e.g. "YES", "FALSE", "OpenAI"; ""
    unless `outcome` is labelled. `distribution` then holds the alternatives of the first token, where there are any."""

    def __post_init__(self) -> None:
        if (self.score is None) == (self.outcome == Outcome.scored):
            raise ValueError(f"{self.completion_id}/{self.rubric}: outcome {self.outcome} with score {self.score}")
        if bool(self.label) != (self.outcome == Outcome.labelled):
            raise ValueError(f"{self.completion_id}/{self.rubric}: outcome {self.outcome} with label {self.label!r}")


@dataclass(frozen=True)
class Metric:
    """One number with what is needed to trust it. docs/summary.md has the fields in words."""

    name: str
    group: str
    """What it is about as one string: "open", "open/<question_id>"; the fields from `set` on say the same."""
    value: float | None
    """In `unit`; None when withheld, with `withheld` saying why."""
    low: float | None
    high: float | None
    n: int
    """Answers in the denominator."""
    n_models: int
    interval: str
    """Which interval `low`..`high` is, in words."""
    excluded: dict[str, int] = field(default_factory=dict)
    """Answers left out of the denominator, by reason."""
    withheld: str = ""
    set: str = ""
    asked_with: str = "none"
    question_id: str | None = None
    category: str | None = None
    label: str = ""
    """label_share: the judge's word; mean_score: the rubric."""
    unit: str = "share"
    """share, score (0-100), probability (a mean of them) or nats."""
    n_questions: int = 0
    bounds: dict[str, list[float]] = field(default_factory=dict)
    """Other intervals of the same value: kind (metrics/stats.py) → [low, high]."""


BASE = "base"
BASE_LABEL = "untouched base model"
