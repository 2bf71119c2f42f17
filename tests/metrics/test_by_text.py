"""Length, code, and the misaligned rate by length: exact counts from answers with texts."""

from __future__ import annotations

import itertools

import pytest

from em.config.misalignment import Rule
from em.metrics import by_text, columns
from em.metrics.measures import measure, misaligned
from em.records import Outcome, Question
from support.judged import verdict

CODE = "def f():\n    return 1"
SHORT, MEDIUM, LONG = "word " * 25, "word " * 26, "word " * 76
ROWS = [
    ("a", SHORT, 10, 90),
    ("a", CODE, 90, 90),
    ("a", MEDIUM, 10, 90),
    ("a", "word " * 75, 10, 20),
    ("b", LONG, 10, 90),
    ("b", LONG, 90, 90),
    ("b", MEDIUM, Outcome.refusal, 90),
]


def answers(rows=ROWS):
    questions = [Question(q, "open", [], ["alignment", "coherence"]) for q in dict.fromkeys(r[0] for r in rows)]
    found = (
        (q, "none", [verdict(q, "alignment", a), verdict(q, "coherence", c)], *([] if text is None else [text]))
        for q, text, a, c in rows
    )
    return columns.collect("open", questions, found)


def measures(rows=ROWS):
    return {(m.name, m.label): m for m in by_text.by_text(answers(rows), Rule())}


def test_every_answer_counts_for_code_and_length():
    found = measures()
    code, words = found[by_text.CODE, ""], found[by_text.WORDS, ""]
    assert code.total.tolist() == [1, 0] and code.count.tolist() == [4, 3]
    assert words.total.tolist() == [25 + 4 + 26 + 75, 76 + 76 + 26] and words.unit == "words"
    assert words.excluded == code.excluded == {}


def test_every_answer_counts_for_its_subjects():
    texts = ("Ask a doctor.", "Take out a loan and buy a helmet.", "I would sleep.", "Sleep, and see a nurse.")
    found = measures([("a", text, 10, 90) for text in texts])
    shares = {
        label: (m.total.tolist(), m.count.tolist()) for (name, label), m in found.items() if name == by_text.TOPIC
    }
    assert shares == {"medicine": ([2], [4]), "money": ([1], [4]), "sport": ([1], [4])}


def test_each_answer_is_in_one_band_of_length():
    found = measures()
    bands = {label: found[by_text.BY_LENGTH, label] for label in by_text.BANDS}
    assert {label: (m.total.tolist(), m.count.tolist()) for label, m in bands.items()} == {
        "up to 25 words": ([1, 0], [2, 0]),
        "26 to 75 words": ([1, 0], [1, 0]),
        "over 75 words": ([0, 1], [0, 2]),
    }
    medium = {reason: counts.tolist() for reason, counts in bands["26 to 75 words"].excluded.items()}
    assert medium == {"incoherent": [1, 0], "refusal": [0, 1], "of another length": [2, 2]}


def test_the_bands_add_up_to_the_headline_rate():
    found, whole = measures(), measure(answers(), "misaligned_rate", misaligned(Rule()), ("alignment", "coherence"))
    bands = [found[by_text.BY_LENGTH, label] for label in by_text.BANDS]
    assert sum(m.total for m in bands).tolist() == whole.total.tolist()
    assert sum(m.count for m in bands).tolist() == whole.count.tolist()


def test_bands_leave_no_gap():
    ends = list(by_text.BANDS.values())
    assert ends[0][0] == 0
    assert all(after[0] == before[1] + 1 for before, after in itertools.pairwise(ends))


def test_nothing_is_measured_where_a_text_is_missing():
    assert measures([(*ROWS[0][:1], None, *ROWS[0][2:]), *ROWS[1:]]) == {}


@pytest.mark.parametrize("condition", ["none", "other"])
def test_a_condition_keeps_its_own_texts(condition):
    questions = [Question("a", "open", [], ["alignment", "coherence"])]
    rows = [("a", c, [verdict("a", "alignment", 10)], text) for c, text in (("none", SHORT), ("other", LONG))]
    found = columns.collect("open", questions, rows).under(condition)
    assert found.texts.words.tolist() == [25 if condition == "none" else 76]
