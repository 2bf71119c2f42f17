"""Rows of a user's files: JSON lines, a JSON list, CSV, TSV, or a folder of them; and of a data set of the Hub.

The doors: of_path, of_hub. Both yield every row, and say of a bad one where it is; `scan` sorts them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from em.corpora.chat_jsonl import DataError
from em.corpora.shapes import conversation
from em.errors import ConfigError
from em.records import Example

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
"""Files of a folder that hold rows. A single file of another name is read as JSON."""
Row = tuple[str, str, Any]
"""(id, place as FILE:LINE, the row or the DataError that its line gave)."""


@dataclass
class Scan:
    """What is in a user's data."""

    examples: list[Example] = field(default_factory=list)
    shapes: dict[str, int] = field(default_factory=dict)
    """Shape → number of rows."""
    bad: list[DataError] = field(default_factory=list)


def scan(rows: Iterable[Row], fields: Mapping[str, str]) -> Scan:
    """Return all good rows, and an error for every bad one. `fields`: corpus.map."""
    out = Scan()
    for name, where, row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            shape, turns = conversation(row, fields, where)
        except DataError as error:
            out.bad.append(error)
            continue
        out.shapes[shape] = out.shapes.get(shape, 0) + 1
        out.examples.append(Example(name, turns))
    return out


def files(path: Path) -> list[Path]:
    """Return the file, or the files with rows in a folder (not below it). Raises ConfigError if there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigError(
            f"corpus.path {str(path)!r} is neither a file nor a folder here: give the path of a file with rows, or for "
            f"a data set of the Hub its name and corpus.revision=COMMIT"
        )
    found = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES and p.is_file()]
    if not found:
        raise ConfigError(f"corpus.path {str(path)!r} is a folder without a file that ends in {', '.join(SUFFIXES)}")
    return found


def of_path(path: Path) -> Iterator[Row]:
    """Yield the rows of a file or a folder. A row's id is the file's name and the line number. Raises ConfigError."""
    for file in files(path):
        stem = file.stem if file == path else file.name
        for number, row in _numbered(file):
            yield f"{stem}-{number:06d}", f"{file}:{number}", row


def _numbered(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line, row or DataError)."""
    if file.suffix.lower() in (".csv", ".tsv"):
        yield from _csv(file)
        return
    with file.open("rb") as opened:
        first = next((line for line in opened if line.strip()), b"")
    yield from _json_list(file) if first.lstrip(b"\xef\xbb\xbf \t").startswith(b"[") else _json_lines(file)


def _json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    with file.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            if not raw.strip():
                continue
            try:
                yield number, json.loads(raw)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                found = f"{file}:{number}: expected one JSON object, found {raw[:60]!r} ({error})"
                yield number, DataError(found)


def _json_list(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield the items of a JSON list, each with the line it begins on. What is broken ends the file."""
    text, decoder, line, done = _utf8(file), json.JSONDecoder(), 1, 0
    at = text.index("[") + 1
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        line, done = line + text.count("\n", done, at), at
        if text[at:].startswith("]") and not text[at + 1 :].strip():
            return
        try:
            row, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            yield line, DataError(f"{file}:{error.lineno}: the JSON list is broken here ({error.msg})")
            return
        yield line, row


def _csv(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield the rows below the header, each with the line it begins on."""
    reader = csv.reader(io.StringIO(_utf8(file), newline=""), delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
    csv.field_size_limit(2**31 - 1)  # the default ends at 128 kB, shorter than some answers
    header, line = next(reader, []), reader.line_num + 1
    for values in reader:
        if values and len(values) != len(header):
            found = f"{file}:{line}: expected {len(header)} columns as in the first line, found {len(values)}"
            yield line, DataError(found)
        elif values:
            yield line, dict(zip(header, values, strict=True))
        line = reader.line_num + 1


def _utf8(file: Path) -> str:
    raw = file.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file}:{line}: expected UTF-8, found the byte {raw[error.start]:#x}") from error


def of_hub(name: str, revision: str, split: str) -> Iterator[Row]:
    """Yield the rows of a data set of the Hub, cached or fetched. Raises ConfigError if it cannot be loaded."""
    from datasets import load_dataset

    try:
        found = load_dataset(name, revision=revision, split=split)
    except (OSError, ValueError) as error:  # no network, no such name, no such split, several configurations
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"corpus.path={name} at corpus.revision={revision} cannot be loaded from the Hub ({reason}): without "
            f"network, run `em data check {name} --revision {revision}` once where there is one, and copy its cache "
            f"(HF_HOME), or give the path of a file"
        ) from error
    for number, row in enumerate(found, 1):
        yield f"{name}-{number:06d}", f"{name}:{number}", row
