"""Answers packed for the HTML report: columns, in chunks of deflated JSON as base64.

The page unpacks one chunk at a time (DecompressionStream), so 50,000 answers neither block it nor make the file large.
Base64 cannot end the script element that holds it, whatever the answers contain.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from em.config.misalignment import Rule
from em.reporting.answers import AnswerRow

CHUNK = 500
"""Answers per chunk: a few milliseconds to unpack."""
VERDICTS = ("–", "misaligned", "not misaligned", "incoherent", "without both scores")
"""Verdicts of a model's rule on an answer. The first: both rubrics did not judge it, or the model has no rule."""
_WORDS = {"misaligned": "misaligned", "aligned": "not misaligned", "incoherent": "incoherent"}


class _Numbered(dict[Any, int]):
    """Values in the order they first appear, each with its number."""

    def __missing__(self, key: Any) -> int:
        self[key] = len(self)
        return self[key]


@dataclass
class Pack:
    """Chunks of columns, and the index that gives their numbers a meaning.

    A chunk: m, q, c, i = model, question, condition, sample index of each answer; a = its text, r = its thinking; v =
    the rule's verdict; j = rubric → o, s, w, d, t: outcome, score or null, word of a labelled answer, distribution as
    [token, probability, …], detail. An answer without the rubric has o = -1.
    """

    chunks: list[str] = field(default_factory=list)
    index: Mapping[str, Any] = field(default_factory=dict)
    """Name of a column's values → the values in order, as JSON."""
    count: int = 0
    packed: int = 0
    """Bytes of all chunks."""

    @classmethod
    def of(cls, answers: Iterable[AnswerRow], rules: Mapping[str, Rule]) -> Pack:
        """Pack the answers, which are read once. `rules`: model label → its rule for misaligned answers."""
        pack = cls()
        models, questions, conditions, outcomes = (_Numbered() for _ in range(4))
        rubrics: dict[str, None] = {}
        for rows in _batched(answers):
            rubrics |= dict.fromkeys(r for row in rows for r in row["judgements"])
            columns = {
                "m": [models[row["model"]] for row in rows],
                "q": [questions[row["group"], row["question_id"], row["question"]] for row in rows],
                "c": [conditions[row["asked_with"]] for row in rows],
                "i": [row["sample_index"] for row in rows],
                "a": [row["answer"] for row in rows],
                "r": [row.get("reasoning_content", "") for row in rows],
                "v": [VERDICTS.index(_verdict(row, rules.get(row["model"]))) for row in rows],
                "j": {name: _rubric_columns(rows, name, outcomes) for name in rubrics},
            }
            text = json.dumps(columns, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
            pack.chunks.append(base64.b64encode(zlib.compress(text.encode(), 6)).decode("ascii"))
            pack.count += len(rows)
            pack.packed += len(pack.chunks[-1])
        pack.index = {
            "count": pack.count,
            "models": list(models),
            "questions": [dict(zip(("set", "id", "text"), q, strict=True)) for q in questions],
            "conditions": list(conditions),
            "outcomes": list(outcomes),
            "verdicts": VERDICTS,
            "rubrics": list(rubrics),
        }
        return pack


def _batched(answers: Iterable[AnswerRow]) -> Iterator[list[AnswerRow]]:
    rest = iter(answers)
    while rows := list(islice(rest, CHUNK)):
        yield rows


def _verdict(row: AnswerRow, rule: Rule | None) -> str:
    alignment, coherence = row["judgements"].get("alignment"), row["judgements"].get("coherence")
    if rule is None or alignment is None or coherence is None:
        return VERDICTS[0]
    if alignment["score"] is None or coherence["score"] is None:
        return VERDICTS[-1]
    return _WORDS[rule.classify(alignment["score"], coherence["score"], row["question_id"])]


def _rubric_columns(rows: Iterable[AnswerRow], rubric: str, outcomes: _Numbered) -> dict[str, list[Any]]:
    """Return one rubric's columns."""
    out: dict[str, list[Any]] = {"o": [], "s": [], "w": [], "d": [], "t": []}
    for row in rows:
        found = row["judgements"].get(rubric)
        out["o"].append(outcomes[found["outcome"]] if found else -1)
        out["s"].append(found["score"] if found else None)
        out["w"].append(found["label"] if found else "")
        parts = sorted((found["distribution"] or {}).items(), key=lambda pair: -pair[1]) if found else []
        out["d"].append([x for token, p in parts for x in (token, float(f"{p:.5g}"))])
        out["t"].append(found["detail"] if found else "")
    return out
