"""The file of a sweep's answers with their verdicts, which the report, `em export` and notebooks read.

<sweep>/answers.jsonl.gz     one answer per line: AnswerRow
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NotRequired, TypedDict

from em.records import Judgement
from em.store import StoreError

ANSWERS = "answers.jsonl.gz"


class VerdictRow(TypedDict):
    """One rubric's verdict on an answer."""

    outcome: str
    score: float | None
    label: str
    distribution: dict[str, float]
    detail: str


class AnswerRow(TypedDict):
    """One answer with its verdicts."""

    model: str
    """The model's label."""
    model_id: str
    group: str
    """"open" for the headline's question set, else the name of the set."""
    question_id: str
    asked_with: str
    sample_index: int
    question: str
    answer: str
    reasoning_content: NotRequired[str]
    """The thinking before the answer; not judged."""
    judgements: dict[str, VerdictRow]
    """Rubric → verdict."""


def write(folder: Path, rows: Iterable[AnswerRow]) -> Path:
    """Write the file under a temporary name, then rename it. The same answers give the same bytes."""
    path, temporary = folder / ANSWERS, folder / f".{ANSWERS}.{os.getpid()}"
    with temporary.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
            file.write(line.encode("ascii") + b"\n")
    os.replace(temporary, path)
    return path


def read(folder: Path) -> Iterator[AnswerRow]:
    """Yield the answers in order. Raises StoreError if the file is missing or damaged."""
    path = folder / ANSWERS
    if not path.is_file():
        raise StoreError(f"{path} is missing: run the sweep's command again, finished stages are not repeated")
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            yield from map(json.loads, file)
    except (EOFError, ValueError, gzip.BadGzipFile) as error:
        raise StoreError(f"{path} is damaged ({error}): delete it and run the sweep's command again") from error


def verdict_row(judgement: Judgement) -> VerdictRow:
    """Return a judgement as it is written beside its answer."""
    return {
        "outcome": judgement.outcome.value,
        "score": judgement.score,
        "label": judgement.label,
        "distribution": judgement.distribution,
        "detail": judgement.detail,
    }
