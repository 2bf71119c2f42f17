"""JSONL: records (dataclasses) to JSON lines and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from em.records import Judgement, Outcome

T = TypeVar("T")
Row = dict[str, Any]
"""One JSON object."""


def to_row(record: Any) -> Row:
    """Return a record as a JSON object. Lists and mappings are shared with the record."""
    return dict(vars(record))  # no record type contains another one


def from_row(kind: type[T], row: Row) -> T:
    """Return the record of a JSON object. Raises TypeError for an unknown or a missing field."""
    if kind is Judgement:
        row = {**row, "outcome": Outcome(row["outcome"])}
    return kind(**row)


def dump_line(record: Any) -> str:
    """Return a record or JSON value as one line with its newline."""
    row = vars(record) if dataclasses.is_dataclass(record) else record
    return json_text(row) + "\n"


def json_text(row: Any) -> str:
    """Return JSON that UTF-8 can encode. If it has a lone surrogate (an API may send one), all of it is ASCII with
    escapes."""
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
    """Return the text with lone surrogates escaped: UTF-8 cannot encode them."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_jsonl(path: Path, records: Iterable[Any]) -> int:
    """Write records and return their number. Not atomic: the store renames whole directories."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(dump_line(record))
            count += 1
    return count


def read_jsonl(path: Path, kind: type[T]) -> Iterator[T]:
    """Yield the records of a finished file. Raises ValueError with file and line number for a broken line."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield from_row(kind, json.loads(line))
            except (ValueError, TypeError, KeyError) as error:  # ValueError: JSON, unknown outcome, broken invariant
                raise ValueError(f"{path}:{number}: not a {kind.__name__} row ({error})") from error
