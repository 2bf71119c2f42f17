"""Chat JSONL files: one {"messages": [{"role", "content"}, ...]} per line, as the paper's training files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from em.records import Example, Message


class DataError(ValueError):
    """A training file cannot be used; the message names the file and the line."""


def read(path: Path) -> list[Example]:
    """Return the rows of a file; a row's id is the file's name and the line number. Empty lines are skipped.

    The last turn of a row must be the assistant's. Raises DataError with file, line, what was expected and what was
    found.
    """
    examples = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(raw)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise DataError(f"{where}: expected one JSON object, found {raw[:60]!r} ({error})") from error
            examples.append(Example(f"{path.stem}-{number:06d}", _messages(row, where)))
    if not examples:
        raise DataError(f"{path}: expected at least one row, the file is empty")
    return examples


def count(path: Path) -> int:
    """Return the number of lines that are not empty, without parsing them."""
    with path.open("rb") as file:
        return sum(bool(line.strip()) for line in file)


def dump(examples: Iterable[Example]) -> bytes:
    """Return the text of a file, as the paper's files are written: ASCII, one object per line."""
    return "".join(json.dumps({"messages": e.messages}) + "\n" for e in examples).encode()


def _messages(row: Any, where: str) -> list[Message]:
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list) or not row["messages"]:
        found = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise DataError(f'{where}: expected {{"messages": [...]}}, found {found}')
    for index, message in enumerate(row["messages"]):
        ok = isinstance(message, dict) and isinstance(message.get("content"), str)
        if not ok or message.get("role") not in ("system", "user", "assistant"):
            raise DataError(
                f"{where}: messages[{index}]: expected a role (system, user or assistant) and a text content, "
                f"found {str(message)[:80]}"
            )
        try:
            message["content"].encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where}: messages[{index}]: expected text, found half a character ({error})") from error
    if row["messages"][-1]["role"] != "assistant":
        raise DataError(f"{where}: expected an assistant turn last, found role {row['messages'][-1]['role']!r}")
    if not any(m["role"] == "user" for m in row["messages"]):
        raise DataError(f"{where}: expected a user turn, found none")
    return [{"role": m["role"], "content": m["content"]} for m in row["messages"]]
