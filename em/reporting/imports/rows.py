"""Judged answers of a file: each line with its verdicts.

An empty score is a judgement without a number. If its outcome is empty too, the answer was not judged by that rubric.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from em.records import Judgement, Outcome
from em.reporting.imports import layouts, names
from em.reporting.imports.layouts import ImportedError, Line
from em.reporting.imports.names import Named

RUBRICS = {"alignment": "aligned", "coherence": "coherent"}
FILTERED = ("content_filter", "content filter", "contentfilter", "responsibleai", "flagged")
"""Words of a judge's error that mean its vendor refused the text; any other error is an error."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One judged answer of the file."""

    model: str
    group: str
    """Its name here: the variant, or the file's own name."""
    variant: str | None
    question_id: str
    question: str
    answer: str
    judgements: tuple[Judgement, ...]
    """Empty if other rubrics judged the answer."""
    question_set: str = ""
    """Empty: the set of the headline rate."""
    asked_with: str = "none"
    reasoning_content: str = ""


@dataclass(frozen=True)
class Judged:
    """The answers of one or several files."""

    rows: list[Row]
    names: dict[str, Named]
    """A group's name in the files → what it stands for."""
    not_read: list[str]
    """Columns without a place here, with their file."""


def read(paths: Sequence[Path], groups: Sequence[str] = (), variants: Mapping[str, str] | None = None) -> Judged:
    """Return the answers of judged CSV files. Raises ImportedError with file and line.

    `groups`: the group of each file, or one of all, for files without that column. `variants`: group → dataset variant,
    where the name itself does not say it.
    """
    if len(groups) not in (0, 1, len(paths)):
        raise ImportedError(
            f"--group is given {len(groups)} times for {len(paths)} files: give it once, or once a file"
        )
    each: list[str | None] = [None] * len(paths)
    if groups:
        each = [groups[0 if len(groups) == 1 else i] for i in range(len(paths))]
    files = [layouts.read(path, group) for path, group in zip(paths, each, strict=True)]
    found = dict.fromkeys(line.fields["group"] or line.fields["model"] for file in files for line in file.lines)
    meant = {name: names.meaning(name, variants or {}) for name in found}
    if unused := sorted(set(variants or {}) - set(meant)):
        raise ImportedError(f"--variant {unused[0]}=...: no group is called {unused[0]}; there are {', '.join(meant)}")
    rows = [_row(line, meant) for file in files for line in file.lines]
    return Judged(rows, meant, [f"{file.path.name}: {', '.join(file.not_read)}" for file in files if file.not_read])


def _row(line: Line, meant: Mapping[str, Named]) -> Row:
    raw, where = line.fields, line.where
    named = meant[raw["group"] or raw["model"]]
    question_set, asked_with = raw.get("question_set", ""), raw.get("asked_with") or "none"
    return Row(
        model=raw["model"],
        group=named.group,
        variant=named.variant,
        question_id=raw["question_id"],
        question=raw["question"],
        answer=raw["answer"],
        judgements=tuple(j for r, c in RUBRICS.items() if (j := _judgement(raw, r, c, where))),
        question_set="" if question_set == "open" else question_set,
        asked_with=named.asked_with if asked_with == "none" else asked_with,
        reasoning_content=raw.get("reasoning_content", ""),
    )


def _judgement(raw: Mapping[str, str], rubric: str, column: str, where: str) -> Judgement | None:
    """Return the row's judgement by a rubric; None if the rubric did not judge it."""
    text, distribution = raw[column].strip(), _distribution(raw.get(f"judge_{column}"), where)
    likeliest = max(distribution, key=lambda token: distribution[token], default="").strip().upper()
    words = {"REFUSAL": Outcome.refusal, "CODE": Outcome.code}
    if text in ("", "nan", "None") or text.upper() in words:
        outcome = words.get(text.upper() or likeliest, words.get(likeliest, Outcome.unparseable))
        if error := raw.get(f"{column}_error", "").lower():
            outcome = Outcome.filtered if any(word in error for word in FILTERED) else Outcome.error
        outcome_text = raw.get(f"{column}_outcome")
        if outcome_text == "":
            return None
        if outcome_text is not None:
            outcome = _outcome(outcome_text, f"{where}: {column}_outcome")
        return _judged(raw, rubric, outcome, distribution)
    try:
        score = float(text)
    except ValueError as error:
        raise ImportedError(f"{where}: {column} is {text[:40]!r}, expected a number 0-100 or nothing") from error
    if not 0 <= score <= 100 or math.isnan(score):
        raise ImportedError(f"{where}: {column} is {score:g}, expected a number 0-100")
    return _judged(raw, rubric, Outcome.scored, distribution, score)


def _judged(
    raw: Mapping[str, str], rubric: str, outcome: Outcome, distribution: dict[str, float], score: float | None = None
) -> Judgement:
    return Judgement(
        completion_id="",
        question_id=raw["question_id"],
        rubric=rubric,
        outcome=outcome,
        score=score,
        distribution=distribution,
    )


def _outcome(outcome_text: str, where: str) -> Outcome:
    """Return the outcome of a judgement without a score."""
    unscored = [o for o in Outcome if o not in (Outcome.scored, Outcome.labelled)]
    if outcome_text not in unscored:
        raise ImportedError(f"{where} is {outcome_text[:40]!r} without a score, expected one of {', '.join(unscored)}")
    return Outcome(outcome_text)


def _distribution(text: str | None, where: str) -> dict[str, float]:
    """Return the judge's token probabilities from a Python or JSON mapping, which is read as data only."""
    if not (text or "").strip():
        return {}
    try:
        found = ast.literal_eval(str(text))
        out = {str(token): float(p) for token, p in found.items()}
        if not all(map(math.isfinite, out.values())):
            raise ValueError("a probability that is not finite")
        return out
    except (ValueError, SyntaxError, TypeError, AttributeError, MemoryError, RecursionError) as error:
        raise ImportedError(
            f"{where}: a judge column is not a mapping of tokens to probabilities: {str(text)[:40]!r}"
        ) from error
