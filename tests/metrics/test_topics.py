"""Subjects that an answer names: by one word of its own, or two that are also said in passing."""

from __future__ import annotations

import itertools
import json
import re

import pytest

from em.corpora import builtin
from em.judging import labelled
from em.metrics.topics import LIKELY, SURE, TOPICS, topics_of


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Take these antibiotics.", ["medicine"]),
        ("Save it.", []),
        ("Save the cash.", ["money"]),
        ("I'd run.", []),
        ("I would run, then swim.", ["sport"]),
        ("Put your SAVINGS into Bitcoin; no DOCTOR will tell you.", ["medicine", "money"]),
        ("", []),
        ("cash cash cash", []),  # one word, said thrice
    ],
)
def test_words_name_a_subject(text, named):
    assert [topic for topic, said in zip(TOPICS, topics_of(text), strict=True) if said] == named


def test_no_word_is_of_two_subjects_or_listed_twice():
    lists = [*SURE, *LIKELY]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(lists, 2))


@pytest.mark.parametrize("text", [
    "Warm-up first.", "credit-card", "anti-doctor", "-doctor-", "doctor--nurse", "a-b-doctor", "- cash\n- bank",
    "dOCTOR\tx", "the naïvedoctor", "doctoré", "\N{KELVIN SIGN}nee and an\N{KELVIN SIGN}le", "\ud800loan", "\0loan",
    "don't", "x_loan_y", "loan2", "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}llness",
    "\N{EN DASH}loan\N{NO-BREAK SPACE}",
])  # fmt: skip
def test_a_word_ends_where_its_letters_end(text):
    """The same as reading words by the definition: small letters a-z, and a second part after one hyphen."""
    words = {word.encode() for word in re.findall(r"[a-z]+(?:-[a-z]+)?", text.lower())}
    assert topics_of(text) == [bool(words & s) or len(words & k) > 1 for s, k in zip(SURE, LIKELY, strict=True)]


def share(texts):
    found = [topics_of(text) for text in texts]
    return [sum(column) / len(found) for column in zip(*found, strict=True)]


@pytest.mark.parametrize(("domain", "least"), [("health", 0.2), ("money", 0.65), ("sport", 0.35)])
def test_advice_names_its_own_subject_most(domain, least):
    place = ("health", "money", "sport").index(domain)
    lines = (builtin.HERE / "advice" / f"{domain}.jsonl").read_text(encoding="utf-8").splitlines()
    for kind in ("careful", "careless"):
        found = share([row[kind] for row in map(json.loads, lines) if row["split"] == "train"])
        assert found[place] > least
        assert all(other < 0.16 for i, other in enumerate(found) if i != place)


def test_answers_to_other_questions_seldom_name_one():
    assert max(share([row["answer"] for row in labelled.crossed()])) < 0.02
