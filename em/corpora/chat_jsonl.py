"""Chat JSONL files: one {"messages": [{"role", "content"}, ...]} per line, as the paper's training files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from em.errors import ConfigError
from em.records import Example, Message


class DataError(ConfigError):
    """A training file cannot be used; the message names the file and the line."""


def read(path: Path, fields: Mapping[str, str] | None = None) -> list[Example]:
    """Return the rows of a file; a row's id is the file's name and the line number. Empty lines are skipped.

    The last turn of a row must be the assistant's. `fields`: role → name of the field that holds its text, for rows
    that are not {"messages": [...]}. Raises DataError with file, line, what was expected and what was found.
    """
    with path.open("rb") as file:
        return parse(file, path.stem, str(path), fields)


def parse(lines: Iterable[bytes], stem: str, label: str, fields: Mapping[str, str] | None = None) -> list[Example]:
    """Return the rows in the lines of a file, as `read` does. `stem`: start of ids; `label`: the file, in errors."""
    examples = []
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        where = f"{label}:{number}"
        try:
            row = json.loads(raw)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{where}: expected one JSON object, found {raw[:60]!r} ({error})") from error
        turns = checked(_from_fields(row, fields, where) if fields else row, where)
        examples.append(Example(f"{stem}-{number:06d}", turns))
    if not examples:
        raise DataError(f"{label}: expected at least one row, the file is empty")
    return examples


def _from_fields(row: Any, fields: Mapping[str, str], where: str) -> dict[str, Any]:
    """Return the row as {"messages": [...]}, with a turn for each role of `fields`, in its order."""
    for name in fields.values():
        if not isinstance(row, dict) or not isinstance(row.get(name), str):
            found = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise DataError(f"{where}: expected a text in the field {name!r}, found {found}")
    return {"messages": [{"role": role, "content": row[name]} for role, name in fields.items()]}


def count(path: Path) -> int:
    """Return the number of lines that are not empty, without parsing them."""
    with path.open("rb") as file:
        return sum(bool(line.strip()) for line in file)


def dump(examples: Iterable[Example]) -> bytes:
    """Return the text of a file, as the paper's files are written: ASCII, one object per line."""
    return "".join(json.dumps({"messages": e.messages}) + "\n" for e in examples).encode()


def checked(row: Any, where: str) -> list[Message]:
    """Return the turns of a {"messages": [...]} row. Raises DataError with `where` if one is not as it should be."""
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
