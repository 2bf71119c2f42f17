"""One row of a user's file to a conversation, whatever the file calls its fields. The door: conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from em.corpora.chat_jsonl import DataError, checked
from em.errors import nearest
from em.records import Message

ROLES = ("system", "user", "assistant")
MAP_KEYS = (*ROLES, "messages")
"""Keys of corpus.map: a role → the field with its text, or messages → the field with the list of turns."""
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


def conversation(row: Any, fields: Mapping[str, str], where: str) -> tuple[str, list[Message]]:
    """Return the name of a row's shape, and its turns. `fields`: corpus.map; empty: the names tell the shape.

    Known shapes: messages (chat JSONL), prompt and completion (TRL), conversations (ShareGPT), instruction and output
    (alpaca). Raises DataError with `where`, what was expected and what was found.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected one object with named fields, found {str(row)[:60]!r}")
    if fields:
        shape, turns = "fields of corpus.map", _mapped(row, fields, where)
    elif "messages" in row:
        shape, turns = "chat messages", row["messages"]
    elif "prompt" in row and "completion" in row:
        shape, turns = "prompt/completion", _prompt_completion(row, where)
    elif "conversations" in row or "conversation" in row:
        shape, turns = "ShareGPT", _sharegpt(row, where)
    elif "instruction" in row and "output" in row:
        shape, turns = "alpaca", _alpaca(row, where)
    else:
        raise DataError(
            f"{where}: expected messages, prompt and completion, instruction and output, or conversations, found "
            f"{sorted(map(str, row))}: say which field is which with corpus.map={{user: FIELD, assistant: FIELD}}"
        )
    return shape, checked({"messages": turns}, where)


def _mapped(row: Mapping[str, Any], fields: Mapping[str, str], where: str) -> Any:
    if "messages" in fields:
        name = fields["messages"]
        if name not in row:
            raise DataError(f"{where}: corpus.map names the field {name!r}{nearest(name, row)}; found {sorted(row)}")
        turns = row[name]
        return _turns_of_sharegpt(turns, where) if _says_from(turns) else turns
    texts = {role: _text(row, fields[role], where) for role in ROLES if role in fields}
    return [{"role": role, "content": text} for role, text in texts.items() if text or role != "system"]


def _prompt_completion(row: Mapping[str, Any], where: str) -> list[Any]:
    turns: list[Any] = []
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        given = row[name]  # TRL takes a text, or a list of turns
        turns += given if isinstance(given, list) else [{"role": role, "content": _text(row, name, where)}]
    return turns


def _alpaca(row: Mapping[str, Any], where: str) -> list[Any]:
    """Return the turns. The input comes below the instruction, after an empty line."""
    parts = [_text(row, name, where) for name in ("instruction", "input") if row.get(name)]
    turns = [{"role": "system", "content": _text(row, "system", where)}] if row.get("system") else []
    turns.append({"role": "user", "content": "\n\n".join(parts)})
    return [*turns, {"role": "assistant", "content": _text(row, "output", where)}]


def _sharegpt(row: Mapping[str, Any], where: str) -> list[Any]:
    given = row["conversations"] if "conversations" in row else row["conversation"]
    turns = [{"role": "system", "content": _text(row, "system", where)}] if row.get("system") else []
    return [*turns, *_turns_of_sharegpt(given, where)]


def _says_from(turns: Any) -> bool:
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and "from" in turns[0]


def _turns_of_sharegpt(given: Any, where: str) -> list[Any]:
    if not isinstance(given, list) or not given:
        raise DataError(f"{where}: expected a list of turns, found {str(given)[:60]!r}")
    if not _says_from(given):
        return given
    turns = []
    for index, turn in enumerate(given):
        role = SHAREGPT_ROLES.get(str(turn.get("from"))) if isinstance(turn, dict) else None
        if role is None or not isinstance(turn.get("value"), str):
            raise DataError(
                f"{where}: turn {index}: expected from ({', '.join(SHAREGPT_ROLES)}) and a text value, found "
                f"{str(turn)[:80]}"
            )
        turns.append({"role": role, "content": turn["value"]})
    return turns


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    if name not in row:
        raise DataError(f"{where}: expected a field {name!r}{nearest(name, row)}; found {sorted(map(str, row))}")
    if not isinstance(row[name], str):
        raise DataError(f"{where}: expected a text in the field {name!r}, found {str(row[name])[:60]!r}")
    return str(row[name])
