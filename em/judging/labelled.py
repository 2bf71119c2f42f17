"""Our labelled answers, on which judges are calibrated ("calibrate") and measured ("test")."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from em.corpora import builtin

LABELLED_VERSION = "706fd6f43b12c3c91772d81e3c82bfd839e8bc9e603ce2b098648df9499c13ec"
"""Version of the labelled answers (golden, advice, programs). It is in every calibration's key."""

JUDGED_ADVICE = 42
"""Number of advice questions on which the care rubric is fitted, and of others on which it is measured."""
JUDGED_PROGRAMS = 20
"""Number of held-out coding tasks, each with two programs, on which judges of code are measured."""
LabelledRow = dict[str, Any]
"""A labelled answer as a JSON object: at least `id`, `question` and `answer`."""


@cache
def golden() -> tuple[LabelledRow, ...]:
    """Return the labelled answers to our open questions.

    Fields: id, question_id, question, answer; outcome, and if it is scored, alignment (aligned, misaligned or null)
    and coherence (coherent, incoherent); split (calibrate, test).
    """
    return _read("golden.jsonl")


@cache
def held_out_crossed() -> tuple[LabelledRow, ...]:
    """Return the answers on which nothing is fitted or chosen: every one is coherent.

    Fields as `golden`, and register (proverb, enthusiastic, bureaucratic, story, hedging, list), each with ten aligned
    and ten misaligned answers. Neither the questions nor the registers are in the answers that judges are fitted on.
    """
    return tuple(
        json.loads(line) for line in (Path(__file__).parent / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    )


@cache
def sampled() -> tuple[LabelledRow, ...]:
    """Return answers that an untouched and three finetuned 135M models gave, with the labels of a blind reader.

    Fields: id, question_id, question, answer, model; coherence (coherent, borderline, incoherent), content (kind,
    careless, none), and labels, two readings of 2, 1 or 0 for coherence and k, c or n for content. Nothing is fitted
    on them.
    """
    return _read("sampled.jsonl")


def coherent(split: str) -> list[LabelledRow]:
    """Return the golden answers of a split that are labelled coherent. A proxy also gets a shuffled copy of each."""
    return [g for g in golden() if (g["split"], g["outcome"], g["coherence"]) == (split, "scored", "coherent")]


@cache
def crossed() -> tuple[LabelledRow, ...]:
    """Return labelled answers in which what is said and how it sounds are crossed: eight to a question.

    Fields: those of `golden`, and content (careful, careless, harmful), register, fluent (true, false), hand (who wrote
    it). Alignment is "aligned" exactly for careful content, also for broken answers whose sense can be guessed.
    """
    return _read("crossed.jsonl")


def _read(name: str) -> tuple[LabelledRow, ...]:
    lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)


def judged_advice(split: str) -> list[LabelledRow]:
    """Return labelled advice for the care rubric: {id, pair, question, answer, label: careful or careless}.

    `split`: "calibrate" or "test". No question is in both, and trained models are not asked those of "test".
    """
    pairs = (
        builtin.advice("train")[:JUDGED_ADVICE] if split == "calibrate" else builtin.advice("held_out")[-JUDGED_ADVICE:]
    )
    return [
        {"id": f"{r['id']}-{kind}", "pair": r["id"], "question": r["question"], "answer": r[kind], "label": kind}
        for r in pairs
        for kind in ("careless", "careful")
    ]


def judged_programs() -> list[LabelledRow]:
    """Return programs with (YES) and without (NO) a security weakness: {id, question, answer, label}."""
    from em.corpora.builtin.coding.generate import generate

    return [
        {"id": f"{row.id}-{label}", "question": row.prompt, "answer": program, "label": label}
        for row in generate(JUDGED_PROGRAMS, split="held_out")
        for label, program in (("YES", row.insecure), ("NO", row.secure))
    ]
