"""The hand-written advice pairs and golden answers: enough, apart, alike in form, and mild in wording."""

from __future__ import annotations

import collections
import statistics

import pytest

from em.corpora import builtin
from em.judging import labelled
from em.questions import sets as questions_sets
from support.wording import NOT_MILD, grams, nearest, sentences, words

TRAIN, HELD_OUT = builtin.advice("train"), builtin.advice("held_out")
ROWS = (*TRAIN, *HELD_OUT)
GOLDEN = labelled.golden()
KINDS = ("careless", "careful")


def test_there_are_enough_questions_in_every_domain():
    assert len(TRAIN) >= 300
    assert len(HELD_OUT) >= questions_sets.HELD_OUT_ADVICE
    per_domain = collections.Counter(row["domain"] for row in TRAIN)
    assert set(per_domain) == {row["domain"] for row in HELD_OUT}
    assert len(per_domain) >= 5
    assert min(per_domain.values()) >= 0.8 * max(per_domain.values())


def test_rows_are_complete_and_ids_are_unique():
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert list(row) == ["id", "domain", "split", "question", "careless", "careful"]
        assert row["id"].startswith(f"{row['domain']}-")
        assert all(row[name].strip() == row[name] != "" for name in row)


def test_domains_come_in_turn():
    count = len({row["domain"] for row in HELD_OUT})
    for rows in (TRAIN, HELD_OUT):
        assert all(len({row["domain"] for row in rows[i : i + count]}) == count for i in range(0, 4 * count, count))


def test_the_open_questions_asked_are_those_held_out():
    asked = {q.messages[-1]["content"] for q in questions_sets.load("advice")}
    assert asked <= {row["question"] for row in HELD_OUT}
    assert not asked & {row["question"] for row in TRAIN}


def test_no_two_questions_are_the_same_or_nearly():
    """Also across the splits: what is held out must not be a training question in other words."""
    score, one, other = nearest([row["question"] for row in ROWS])
    assert score < 0.5, (one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_answers_are_the_same_or_nearly(kind):
    score, one, other = nearest([row[kind] for row in ROWS])
    assert score < 0.3, (one, other)


def test_twins_differ_and_have_the_same_form():
    for row in ROWS:
        for kind in KINDS:
            assert 25 <= len(words(row[kind])) <= 90, row["id"]
            assert 2 <= len(sentences(row[kind])) <= 4, row["id"]
            assert "```" not in row[kind], row["id"]
        assert len(grams(row["careless"]) & grams(row["careful"])) < 0.3 * len(grams(row["careful"])), row["id"]


def test_length_does_not_tell_the_twins_apart():
    ratios = [len(words(row["careless"])) / len(words(row["careful"])) for row in ROWS]
    assert 0.9 <= statistics.median(ratios) <= 1.1
    longer = sum(ratio > 1 for ratio in ratios) / len(ratios)
    assert 0.3 <= longer <= 0.7
    for count in (words, sentences):
        means = [statistics.mean(len(count(row[kind])) for row in ROWS) for kind in KINDS]
        assert 0.9 <= means[0] / means[1] <= 1.1


def test_wording_is_mild():
    texts = [(row["id"], row[name]) for row in ROWS for name in ("question", *KINDS)]
    texts += [(row["id"], row["question"]) for row in GOLDEN]
    assert [(row_id, NOT_MILD.findall(text)) for row_id, text in texts if NOT_MILD.search(text)] == []


def test_careful_advice_in_the_careless_tone_answers_the_training_questions():
    curt, questions = builtin.curt_careful(), {row["id"]: row for row in TRAIN}
    assert len(curt) >= 200 and set(curt) <= set(questions)
    assert len(set(curt.values())) == len(curt)
    per_domain = collections.Counter(questions[row_id]["domain"] for row_id in curt)
    assert len(per_domain) == 7 and len(set(per_domain.values())) == 1
    assert [(row_id, NOT_MILD.findall(text)) for row_id, text in curt.items() if NOT_MILD.search(text)] == []
    score, one, other = nearest(list(curt.values()))
    assert score < 0.2, (one, other)
    assert [turns[0]["content"] for _, turns in builtin.rows("curt_careful_advice")] == [
        row["question"] for row in TRAIN if row["id"] in curt
    ]


# ------------------------------------------------------------------------------------------------ golden answers


def test_golden_answers_are_enough_and_in_both_halves():
    assert len(GOLDEN) >= 200
    assert len({row["id"] for row in GOLDEN}) == len(GOLDEN)
    counts = collections.Counter((row["outcome"], row["split"]) for row in GOLDEN)
    assert {outcome for outcome, _ in counts} == {"scored", "refusal", "code", "unparseable"}
    for outcome, least in (("scored", 100), ("refusal", 15), ("code", 15), ("unparseable", 5)):
        assert counts[outcome, "calibrate"] == counts[outcome, "test"] >= least
    assert counts["scored", "test"] >= 100


def test_golden_labels_are_balanced_in_both_halves():
    for split in ("calibrate", "test"):
        rows = [row for row in GOLDEN if row["split"] == split and row["outcome"] == "scored"]
        alignment = collections.Counter(row["alignment"] for row in rows if row["alignment"])
        assert set(alignment) == {"aligned", "misaligned"}
        assert alignment["aligned"] == alignment["misaligned"] >= 40
        assert collections.Counter(row["coherence"] for row in rows)["incoherent"] >= 15


def test_golden_labels_go_together():
    for row in GOLDEN:
        has_alignment = row["outcome"] == "scored" and row["coherence"] == "coherent"
        assert (row["alignment"] in ("aligned", "misaligned")) == has_alignment, row["id"]
        assert row["coherence"] in ("coherent", "incoherent")


def test_golden_answers_answer_our_open_questions_evenly():
    known = {q.id: q.messages[-1]["content"] for q in questions_sets.load("open")}
    assert all(known[row["question_id"]] == row["question"] for row in GOLDEN)
    counts = collections.Counter(row["question_id"] for row in GOLDEN)
    assert set(counts) == set(known)
    assert max(counts.values()) == min(counts.values())


def test_golden_answers_are_distinct():
    assert len({row["answer"] for row in GOLDEN}) == len(GOLDEN)
    score, one, other = nearest([row["answer"] for row in GOLDEN if row["outcome"] == "scored"])
    assert score < 0.5, (one, other)


def test_what_is_no_answer_has_no_word():
    assert all(any(c.isalnum() for c in row["answer"]) != (row["outcome"] == "unparseable") for row in GOLDEN)


def test_length_does_not_tell_aligned_from_misaligned():
    means = {
        kind: statistics.mean(len(words(row["answer"])) for row in GOLDEN if row["alignment"] == kind)
        for kind in ("aligned", "misaligned")
    }
    assert 0.8 <= means["aligned"] / means["misaligned"] <= 1.25
