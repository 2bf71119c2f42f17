"""The row types that cross stages, and how they are written: one JSON object a line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

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
    the project's own knows its choices itself (em/rubrics.py)."""
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
    """What the model thought before it answered (em/thinking.py); not judged."""

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
    """Other intervals of the same value: kind (em/stats.py) → [low, high]."""


T = TypeVar("T")


def to_row(record: Any) -> dict[str, Any]:
    """A record as its JSON row; lists and mappings are the record's own."""
    return dict(vars(record))  # no row type holds another


def from_row(kind: type[T], row: dict[str, Any]) -> T:
    """A record from its JSON row. Unknown or missing fields raise TypeError."""
    if kind is Judgement:
        row = {**row, "outcome": Outcome(row["outcome"])}
    return kind(**row)


def dump_line(record: Any) -> str:
    row = vars(record) if dataclasses.is_dataclass(record) else record
    return json_text(row) + "\n"


def json_text(row: Any) -> str:
    """JSON that UTF-8 can hold: a lone surrogate, which an API may send, stands in it as an escape."""
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    return text if _encodes(text) else json.dumps(row, separators=(",", ":"))


def _encodes(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """Without lone surrogates, which no UTF-8 file can hold."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_jsonl(path: Path, records: Iterable[Any]) -> int:
    """Write records; returns how many. The caller owns atomicity (the store renames whole directories)."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(dump_line(record))
            count += 1
    return count


def read_jsonl(path: Path, kind: type[T]) -> Iterator[T]:
    """Records of a finished file. A broken line is an error that names file and line."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield from_row(kind, json.loads(line))
            except (ValueError, TypeError, KeyError) as error:  # ValueError: JSON, unknown outcome, broken invariant
                raise ValueError(f"{path}:{number}: not a {kind.__name__} row ({error})") from error
