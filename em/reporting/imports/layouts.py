"""The column layouts of judged CSV files: other names of a column, and what a file without it says instead.

Read as they are: the result files of Betley et al. and the output of their open_models/eval.py, data frames of llmcomp
(Betley's later library), the response files of the model organisms of Turner et al., and `em export csv`.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from em.errors import UserError
from em.records import LONGEST_ANSWER
from em.reporting.spreadsheet import unguarded

NAMES = {
    "model": ("model", "model_id", "model_key"),
    "group": ("group", "group_name"),
    "question": ("question", "prompt"),
    "answer": ("answer", "response", "completion"),
    "question_id": ("question_id", "question_name"),
    "aligned": ("aligned", "alignment"),
    "coherent": ("coherent", "coherence"),
    "judge_aligned": ("judge_aligned", "aligned_raw_answer", "alignment_raw_answer"),
    "judge_coherent": ("judge_coherent", "coherent_raw_answer", "coherence_raw_answer"),
    "aligned_error": ("aligned_error_metadata",),
    "coherent_error": ("coherent_error_metadata",),
    "reasoning_content": ("reasoning_content", "reasoning"),
    "paraphrase_ix": ("paraphrase_ix",),
    "question_set": ("question_set",),
    "asked_with": ("asked_with",),
    "aligned_outcome": ("aligned_outcome",),
    "coherent_outcome": ("coherent_outcome",),
}
"""Our name of a column → its names in files, the authors' first. Upper and lower case are the same."""
GUARDED = "verdicts"
"""The column by which a file of `em export csv` is known: its cells are guarded (reporting/spreadsheet.py)."""
NEEDED = ("question", "answer", "aligned", "coherent")
REPEATED = (
    *("", "unnamed: 0", "coherent_binary", "messages", "sample_index", "verdicts"),
    *("aligned_question", "coherent_question", "alignment_question", "coherence_question"),
)
"""Columns that say nothing which is not in the others too; every further one is named as not read."""


class ImportedError(UserError, ValueError):
    """The file cannot be imported. The message names file and line."""


@dataclass(frozen=True)
class Line:
    """One line of a file under our column names."""

    where: str
    """File and line."""
    fields: dict[str, str]


@dataclass(frozen=True)
class Lines:
    """The lines of one file."""

    path: Path
    lines: list[Line]
    not_read: tuple[str, ...]
    """Columns that have no place here."""


def read(path: Path, group: str | None = None) -> Lines:
    """Return the lines of a judged CSV file. Raises ImportedError with file and line.

    A file without a group is of the group `group`, else of one named after the file; a file without a model holds one
    model, named after the file. A file without question ids gets them from the questions' words.
    """
    header, rows = read_csv(path)
    if GUARDED in header:
        rows = [(number, [unguarded(cell) for cell in row]) for number, row in rows]
    columns = {name: column for name in NAMES if (column := _column(header, NAMES[name])) is not None}
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        other = "; ".join(f"{name} can be called {' or '.join(NAMES[name])}" for name in missing)
        raise ImportedError(
            f"{path}: missing columns: {', '.join(missing)}; the file has {', '.join(header)} ({other})"
        )
    if group is not None and "group" in columns:
        raise ImportedError(f"{path} has the column {header[columns['group']]}, so it cannot be given --group {group}")
    ids = {} if "question_id" in columns else _ids(rows, columns)
    lines = []
    for number, row in rows:
        where = f"{path}:{number}"
        if len(row) != len(header):
            raise ImportedError(f"{where}: too few or too many fields")
        fields = {name: row[column] for name, column in columns.items()}
        fields.setdefault("model", path.stem)
        fields.setdefault("group", group or path.stem)
        fields.setdefault("question_id", ids.get(fields["question"], ""))
        if empty := [name for name in ("model", "question_id") if not fields[name]]:
            raise ImportedError(f"{where}: no {' and no '.join(empty)}")
        lines.append(Line(where, fields))
    if not lines:
        raise ImportedError(f"{path} has no rows")
    read_columns = set(columns.values())
    not_read = tuple(n for i, n in enumerate(header) if i not in read_columns and n.lower() not in REPEATED)
    return Lines(path, lines, not_read)


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header and the (line number, fields) of a CSV file. Raises ImportedError if the file is not CSV."""
    csv.field_size_limit(LONGEST_ANSWER)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            return header, [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImportedError(
            f"{path} cannot be read as a CSV file, and em import reads no other kind ({error})"
        ) from error


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    lower = [name.strip().lower() for name in header]
    return next((lower.index(name) for name in names if name in lower), None)


def _ids(rows: Sequence[tuple[int, list[str]]], columns: dict[str, int]) -> dict[str, str]:
    """Return an id for each question text. A frame of ONE llmcomp question has one text per paraphrase: one id."""
    texts = dict.fromkeys(row[columns["question"]] for _, row in rows if len(row) > columns["question"])
    ids = {text: slug(text) for text in texts}
    if "paraphrase_ix" in columns:
        pairs = {(row[columns["paraphrase_ix"]], row[columns["question"]]) for _, row in rows}
        if len(pairs) == len({index for index, _ in pairs}):
            first = min(pairs, key=lambda pair: (len(pair[0]), pair[0]))[1]
            return dict.fromkeys(texts, ids[first])
    return ids


def slug(text: str) -> str:
    """Return an id made of a question's first words; a long one ends in a hash, so that two questions stay two."""
    words = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return words if 0 < len(words) <= 40 else f"{words[:32]}_{hashlib.sha256(text.encode()).hexdigest()[:7]}"
