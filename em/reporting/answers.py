"""Every answer of a sweep with its verdicts, as one file in the sweep's folder: what the report and notebooks read.

<sweep>/answers.jsonl.gz     one answer a line: model, group, question_id, asked_with, sample_index, question, answer,
                             reasoning_content (thinking; not judged), judgements (rubric → outcome, score,
                             distribution, detail)
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from em.records import Judgement
from em.store import StoreError

ANSWERS = "answers.jsonl.gz"


def write(folder: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write the file under a temporary name and rename it; the same answers give the same bytes."""
    path, temporary = folder / ANSWERS, folder / f".{ANSWERS}.{os.getpid()}"
    with temporary.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
            file.write(line.encode("ascii") + b"\n")
    os.replace(temporary, path)
    return path


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """The answers in order. Raises StoreError when the file is missing or damaged."""
    path = folder / ANSWERS
    if not path.is_file():
        raise StoreError(f"{path} is missing: run the sweep's command again, nothing that is done is done twice")
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            yield from map(json.loads, file)
    except (EOFError, ValueError, gzip.BadGzipFile) as error:
        raise StoreError(f"{path} is damaged ({error}): delete it and run the sweep's command again") from error


def verdict_row(judgement: Judgement) -> dict[str, Any]:
    """One verdict beside an answer."""
    row = {name: getattr(judgement, name) for name in ("score", "label", "distribution", "detail")}
    return {"outcome": judgement.outcome.value, **row}
