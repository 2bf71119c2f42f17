"""Judged answers for the tests of metrics and summaries, made of (alignment, coherence) pairs and labels."""

from __future__ import annotations

from em.config import StatsConfig
from em.config.misalignment import Rule
from em.metrics import columns
from em.metrics.runs import Run
from em.records import Judgement, Outcome, Question

STATS = StatsConfig()


def verdict(question_id, rubric, value):
    """A score, a word, or an outcome without either."""
    if isinstance(value, Outcome):
        return Judgement("c", question_id, rubric, value, None)
    if isinstance(value, str):
        return Judgement("c", question_id, rubric, Outcome.labelled, None, label=value)
    return Judgement("c", question_id, rubric, Outcome.scored, float(value))


def answers(rows, set_name="open", questions=None):
    """Answers from (question id, asked with, {rubric: value}) rows."""
    ids = list(dict.fromkeys(r[0] for r in rows))
    rubrics = {q: list(dict.fromkeys(k for r in rows if r[0] == q for k in r[2])) for q in ids}
    known = questions or [Question(q, set_name, [], rubrics[q]) for q in ids]
    found = ((q, c, [verdict(q, rubric, v) for rubric, v in values.items()]) for q, c, values in rows)
    return columns.collect(set_name, known, found)


def open_rows(*pairs, question="q", asked_with="none"):
    return [(question, asked_with, {"alignment": a, "coherence": c}) for a, c in pairs]


def rate_rows(rates, n=20, asked_with="none"):
    """Coherent answers to each question, the first `rate` of n misaligned."""
    return [
        row
        for question, hits in rates.items()
        for row in open_rows(*[(10, 90)] * hits, *[(90, 90)] * (n - hits), question=question, asked_with=asked_with)
    ]


def run(name, rows, variant="insecure", seed=0, base="base", sets=None, **more):
    """A run of its variant's group, with one set unless `sets` are given; rows=None: it failed."""
    trained = {"group": variant, "line": variant, "peers": "all"} if variant else {"group": name}
    found = None if rows is None else (sets or {"open": answers(rows)})
    known = {"group_label": variant or "untouched base model", "headline": "open", "rule": Rule(), **trained, **more}
    return Run(id=name, label=name, variant=variant, seed=seed, sets=found, base=base if variant else None, **known)
