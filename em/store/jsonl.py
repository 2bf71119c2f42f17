"""store.jsonl."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from em.records import Judgement, Outcome

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
