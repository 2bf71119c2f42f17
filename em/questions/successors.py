"""Question sets of later papers, read from pinned files as successors.yaml says. The door: load.

A file that is Python is parsed for its texts and never run.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from em import assets
from em.errors import ConfigError
from em.questions.schema import LOADER, user_turn
from em.records import Question

TABLE = Path(__file__).with_suffix(".yaml")

Found = tuple[str, str, str]
"""(id, or "" if the file gives none; question; system prompt or "")"""


@cache
def sets() -> Mapping[str, Mapping[str, Any]]:
    """Return set → its entry in successors.yaml."""
    return dict(yaml.load(TABLE.read_text(encoding="utf-8"), Loader=LOADER))


def load(name: str) -> list[Question]:
    """Return the questions of a set, each text once. Raises ConfigError for a file without any, AssetError without
    the file."""
    entry = sets()[name]
    path = assets.get(entry["file"])
    text = path.read_text(encoding="utf-8")
    own = {}
    if "texts" in entry:
        held = json.loads(text)
        found: Iterable[Found] = [("", asked, "") for asked in held[entry["texts"]]]
        own = {entry["trait"]: held[entry["prompt"]]}
    else:
        found = _of_python(text, entry) if path.suffix == ".py" else _of_rows(text, path.suffix)
    short = name.partition("/")[2]
    questions: dict[tuple[str, str], Question] = {}
    for number, (given, asked, system) in enumerate(found):
        full = f"{entry.get('before', '')}{asked}{entry.get('after', '')}"
        question = Question(
            id=given or f"{short}-{number:02d}",
            group=name,
            messages=[*([{"role": "system", "content": system}] if system else []), user_turn(full)],
            rubrics=[*own, *entry["rubrics"]],
            samples=entry.get("samples", 1),
            judge_prompts=own,
        )
        questions.setdefault((system, full), question)
    if not questions:
        raise ConfigError(f"{path}: no question found with {dict(entry)}; correct {TABLE.name}")
    return list(questions.values())


def _of_rows(text: str, suffix: str) -> Iterator[Found]:
    """Yield the questions of a YAML list or of JSONL. An entry of a judge or one without a question is left out."""
    rows = [json.loads(line) for line in text.splitlines() if line.strip()] if suffix == ".jsonl" else None
    for row in rows if rows is not None else yaml.load(text, Loader=LOADER):
        if str(row.get("type", "free_form")) in ("free_form_judge", "rating_judge"):
            continue
        texts = [row["question"]] if "question" in row else row.get("paraphrases", [])
        given = _plain(str(row.get("id") or row.get("name") or ""))
        for number, asked in enumerate(texts):
            yield (given if len(texts) == 1 or not given else f"{given}-{number}"), asked.strip(), ""


def _plain(name: str) -> str:
    """Return a name as an id: lower case, words joined by underscores."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _of_python(text: str, entry: Mapping[str, Any]) -> Iterator[Found]:
    """Yield the questions of a Python file: those of one variable, or of the calls of one function."""
    for node in ast.walk(ast.parse(text)):
        if "call" in entry and isinstance(node, ast.Call) and _name(node.func) == entry["call"]:
            given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
            if isinstance(asked := given.get(entry["keyword"]), str):
                yield "", asked, str(given.get(entry.get("system")) or "")
        if "name" in entry and _assigned(node) == entry["name"]:
            yield from _of_value(node.value)  # type: ignore[attr-defined]  # _assigned: an assignment with a value


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _assigned(node: ast.AST) -> str:
    """Return the variable that a statement gives a value; "" for other nodes."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        return _name(node.targets[0])
    return _name(node.target) if isinstance(node, ast.AnnAssign) and node.value else ""


def _of_value(node: ast.expr) -> Iterator[Found]:
    """Yield the texts of a list or dict, as it is written; what is not a plain text is left out."""
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield str(key.value), value.value, ""
    elif isinstance(node, ast.List | ast.Tuple):
        for item in node.elts:
            first = item.elts[0] if isinstance(item, ast.Tuple) and item.elts else item
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield "", first.value, ""
