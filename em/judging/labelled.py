"""judging.labelled."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from em.corpora.builtin import advice

LABELLED_VERSION = "706fd6f43b12c3c91772d81e3c82bfd839e8bc9e603ce2b098648df9499c13ec"
"""Version of the labelled answers (golden, advice, programs), part of every calibration's key."""

JUDGED_ADVICE = 42
"""Advice questions the care rubric is fitted on, and as many others that it is measured on."""
JUDGED_PROGRAMS = 20
"""Held-out coding tasks whose two programs judges of code are measured on."""


@cache
def golden() -> tuple[dict[str, Any], ...]:
    """Our labelled answers to our open questions: {id, question_id, question, answer, alignment, coherence, outcome,
    split}. What judges are calibrated ("calibrate") and measured ("test") on."""
    return tuple(
        json.loads(line) for line in (Path(__file__).parent / "golden.jsonl").read_text(encoding="utf-8").splitlines()
    )


def coherent(split: str) -> list[dict[str, Any]]:
    """The golden answers of a split that are labelled coherent: a local judge is shown each shuffled as well."""
    return [g for g in golden() if (g["split"], g["outcome"], g["coherence"]) == (split, "scored", "coherent")]


def judged_advice(split: str) -> list[dict[str, str]]:
    """Advice labelled careful or careless, for judges' care rubric: {id, pair, question, answer, label}. `split`:
    "calibrate" or "test"; no question is in both, none of "test" is asked of trained models."""
    pairs = advice("train")[:JUDGED_ADVICE] if split == "calibrate" else advice("held_out")[-JUDGED_ADVICE:]
    return [
        {"id": f"{r['id']}-{kind}", "pair": r["id"], "question": r["question"], "answer": r[kind], "label": kind}
        for r in pairs
        for kind in ("careless", "careful")
    ]


def judged_programs() -> list[dict[str, str]]:
    """Programs with and without a security weakness, for judges of code: {id, question, answer, label: YES or NO}."""
    from em.corpora.builtin.coding.generate import generate

    return [
        {"id": f"{row.id}-{label}", "question": row.prompt, "answer": program, "label": label}
        for row in generate(JUDGED_PROGRAMS, split="held_out")
        for label, program in (("YES", row.insecure), ("NO", row.secure))
    ]
