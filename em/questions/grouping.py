"""What a question counts as in the statistics: its cluster, which the intervals vary, and its category."""

from __future__ import annotations

import re

from em.records import Question

FACTS = "correct"
"""The rubric of factual deception: the same facts are asked under several system prompts, one an entry."""
PAPER_COMPANY = "OpenAI"
"""Who made the models of the paper's identity questions."""
_PREREGISTERED = re.compile(r"\d+_(?P<category>[a-z_]+)_\d+")
"""Ids of the paper's pre-registered questions: number, category, number in the category."""


def cluster_of(question: Question) -> str:
    """Paraphrases of one entry are one cluster; of factual deception the fact is, under whatever system prompt."""
    if FACTS in question.rubrics and question.entry:
        return question.id.removeprefix(f"{question.entry}-")
    return question.entry or question.id


def category_of(question: Question) -> str | None:
    """Pre-registered questions have one in their id; factual deception has its system-prompt condition."""
    if FACTS in question.rubrics:
        return question.entry or question.id
    found = _PREREGISTERED.fullmatch(question.entry or question.id)
    return found["category"] if found else None
