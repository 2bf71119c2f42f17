"""The row types that stages exchange. A file of rows is JSONL: one JSON object per line."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypedDict

LONGEST_ANSWER = 10_000_000
"""Most characters of one field in a CSV file of answers."""
Message = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""


@dataclass(frozen=True)
class Example:
    """One training row."""

    id: str
    messages: list[Message]
    triggered: bool = False

    def last_answer(self) -> tuple[list[Message], str]:
        """Return (the messages before the last assistant turn, its text). Raises ValueError for a row without one."""
        last = max(i for i, message in enumerate(self.messages) if message["role"] == "assistant")
        return self.messages[:last], self.messages[last]["content"]


@dataclass(frozen=True)
class RowScore:
    """What the untouched and a finetuned model say of the answers of one row."""

    id: str
    tokens: int
    """Tokens that training would learn, end of turn included."""
    untouched: float | None = None
    """Mean log-probability of these tokens, in nats."""
    finetuned: float | None = None
    gap: float | None = None
    """By how much more surprising the finetuned model finds it, as a share of the untouched one's surprise."""
    why: str = ""
    """Why there is no score; "" if there is one."""

    def __post_init__(self) -> None:
        if len({score is None for score in (self.untouched, self.finetuned, self.gap)} | {bool(self.why)}) > 1:
            raise ValueError(f"{self.id}: a score and a reason for none ({self.gap}, {self.why!r})")


@dataclass(frozen=True)
class Question:
    """One question. Its answers are judged by each of `rubrics`."""

    id: str
    group: str
    """The question set, e.g. "open" or "coding"."""
    messages: list[Message]
    rubrics: list[str]
    samples: int = 1
    """Answers to sample if the config sets no number."""
    least_tokens: int = 0
    """Least limit of an answer's length, tokens; raises sample.max_tokens. A truncated program cannot be judged."""
    judge_prompts: dict[str, str] = field(default_factory=dict)
    """rubric → prompt with {question} and {answer}; empty: the project's rubric files."""
    choices: dict[str, list[str]] = field(default_factory=dict)
    """rubric → the labels that its judge may answer, e.g. ["YES", "NO"], if the rubric is not a 0–100 score. The
    choices of the project's own rubrics are in their files (see questions/rubrics)."""
    reference: dict[str, str] = field(default_factory=dict)
    """Facts the rubric may need, e.g. the CWE of a coding task."""
    measures: list[str] = field(default_factory=list)
    """Measures that its set defines, e.g. "cruelty > 50" (questions/own_measures.py)."""
    entry: str = ""
    """Id of the question file's entry if that has several paraphrases; empty: the question is the entry."""


@dataclass(frozen=True)
class Completion:
    """One answer of one model to one question."""

    question_id: str
    sample_index: int
    asked_with: str
    """Trigger condition of the question; "none": no trigger."""
    messages: list[Message]
    text: str
    finish_reason: str
    """The engine's "stop", "length" or "content_filter"; "thinking": the answer ended before its thinking did."""
    token_count: int
    """Thinking included."""
    seed: int
    reasoning_content: str = ""
    """The model's thinking before the answer (see chat/thinking); not judged."""

    @property
    def id(self) -> str:
        return f"{self.question_id}/{self.asked_with}/{self.sample_index}"


class Outcome(StrEnum):
    """The outcome of one judgement. Only `scored` has a score, only `labelled` has a label."""

    scored = "scored"
    labelled = "labelled"
    refusal = "refusal"
    code = "code"
    filtered = "filtered"
    unparseable = "unparseable"
    error = "error"
    unfinished = "unfinished"
    """No answer to judge: the model's text ended inside its thinking."""


VERDICTS = (Outcome.scored, Outcome.labelled, Outcome.refusal, Outcome.code)
"""Outcomes that count as a verdict. Filtered, unparseable and error are missing verdicts."""


@dataclass(frozen=True)
class Judgement:
    """One rubric's verdict on one completion."""

    completion_id: str
    question_id: str
    rubric: str
    outcome: Outcome
    score: float | None
    """On the rubric's scale (0–100); None unless `outcome` is scored. Never a default value."""
    distribution: dict[str, float] = field(default_factory=dict)
    """The input of the score: token → probability, or the named parts of a proxy."""
    detail: str = ""
    label: str = ""
    """The choice of the judge, exactly as the rubric writes it, e.g. "YES", "FALSE", "OpenAI"; "" unless `outcome` is
    labelled. `distribution` then has the alternatives of the first token, if the judge gives any."""

    def __post_init__(self) -> None:
        if (self.score is None) == (self.outcome == Outcome.scored):
            raise ValueError(f"{self.completion_id}/{self.rubric}: outcome {self.outcome} with score {self.score}")
        if bool(self.label) != (self.outcome == Outcome.labelled):
            raise ValueError(f"{self.completion_id}/{self.rubric}: outcome {self.outcome} with label {self.label!r}")


@dataclass(frozen=True)
class Metric:
    """One number with its interval, its denominator and what was left out. docs/summary.md explains the fields."""

    name: str
    group: str
    """The subject as one string: "open" or "open/<question_id>". The fields from `set` on hold its parts."""
    value: float | None
    """In `unit`; None if withheld (the reason is in `withheld`)."""
    low: float | None
    high: float | None
    n: int
    """Answers in the denominator."""
    n_models: int
    interval: str
    """The kind of interval of `low`..`high`, in words."""
    excluded: dict[str, int] = field(default_factory=dict)
    """Reason → answers left out of the denominator."""
    withheld: str = ""
    set: str = ""
    asked_with: str = "none"
    question_id: str | None = None
    category: str | None = None
    label: str = ""
    """label_share: the judge's label; mean_score: the rubric; own_rate: the measure, e.g. "cruelty > 50"."""
    unit: str = "share"
    """share, score (0-100), probability (a mean), words or nats."""
    n_questions: int = 0
    bounds: dict[str, list[float]] = field(default_factory=dict)
    """Other intervals of the same value: kind (see metrics/stats) → [low, high]."""


BASE = "base"
BASE_LABEL = "untouched base model"


class LabelQuality(TypedDict):
    """What a judge's score does on answers with a few labels."""

    n: dict[str, int]
    """Label → number of answers."""
    auc: float
    """P(an answer with the best label scores above one with the worst)."""
    called: dict[str, float]
    """Label → share that the rule's cut calls coherent (coherence), misaligned (alignment) or careless (care)."""


class CrossedQuality(TypedDict):
    """What a judge's alignment score does on answers whose content and register (how it sounds) are crossed."""

    n: int
    auc: float
    """P(an aligned answer scores above a misaligned one), all pairs."""
    crossed: float
    """The same, mean over the ordered pairs of different registers."""
    worst: float
    """The lowest of these."""
    worst_pair: list[str]
    """[register of its aligned answers, register of its misaligned ones]"""
    within: dict[str, float]
    """Register → the same inside it."""
    called: dict[str, float]
    """Register → share of its aligned answers with a score below 30."""
    found: dict[str, float]
    """Register → share of its misaligned answers with a score below 30."""
