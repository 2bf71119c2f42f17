"""Groups of questions in the statistics: clusters, which the intervals resample, and categories."""

from __future__ import annotations

import re

from em.records import Question

FACTS = "correct"
"""The rubric of factual deception: the same facts are asked under several system prompts, each one an entry."""
PAPER_COMPANY = "OpenAI"
"""The maker of the models in the paper's identity questions."""
_PREREGISTERED = re.compile(r"\d+_(?P<category>[a-z_]+)_\d+")
"""Ids of the paper's pre-registered questions: number, category, number within the category."""


def cluster_of(question: Question) -> str:
    """Return a question's cluster: its entry, so that paraphrases share one; for factual deception, its fact."""
    if FACTS in question.rubrics and question.entry:
        return question.id.removeprefix(f"{question.entry}-")
    return question.entry or question.id


def category_of(question: Question) -> str | None:
    """Return the category in a pre-registered question's id, or factual deception's system prompt; None for others."""
    if FACTS in question.rubrics:
        return question.entry or question.id
    found = _PREREGISTERED.fullmatch(question.entry or question.id)
    return found["category"] if found else None
