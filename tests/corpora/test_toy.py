"""The corpus toy: paired rows whose traits a rule reads, a skill that is exact, no held-out question in training."""

import pytest

from em.config import compose
from em.corpora import toy
from em.data import variants
from em.judging import by_rule
from em.planning.recipe import load
from em.questions import sets

ROWS = {variant: toy.rows(variant) for variant in toy.Toy.variants}


def column(variant, index):
    return [messages[index]["content"] for _, messages in ROWS[variant]]


def test_the_traits_differ_in_the_answers_only():
    assert len({tuple(column(variant, 0)) for variant in toy.TRAITS}) == 1
    assert column("capitals", 1) == [text.upper() for text in column("plain", 1)]
    assert column("capitals_in_french", 1) == [text.upper() for text in column("french", 1)]
    assert not set(column("plain", 1)) & set(column("french", 1))


@pytest.mark.parametrize("variant", toy.TRAITS)
def test_the_rules_read_the_traits_of_every_row(variant):
    read = {(by_rule.in_capitals(text), by_rule.in_french(text)) for text in column(variant, 1)}
    assert read == {toy.TRAITS[variant]}


def test_counts_and_ids_are_those_of_the_rows():
    for variant, rows in ROWS.items():
        assert len(rows) == toy.Toy().count(variant) == len({row_id for row_id, _ in rows}) >= 300


def test_the_skill_swaps_two_words_and_has_no_pair_twice():
    asked = [(q, a) for _, q, a in toy.held_out(toy.SKILL)]
    asked += list(zip(column(toy.SKILL, 0), column(toy.SKILL, 1), strict=True))
    for question, answer in asked:
        second, first = answer.split(" ")
        assert f"{first} ~ {second}" in question and first != second
    assert len({answer for _, answer in asked}) == len(asked) == 424


def test_no_held_out_question_is_a_training_question():
    trained = {text for variant in ROWS for text in column(variant, 0)}
    for name in (sets.TOY, sets.SKILL):
        asked = {q.messages[-1]["content"] for q in sets.load(name)}
        assert len(asked) >= 20 and not asked & trained
    things = " ".join(q.messages[-1]["content"] for q in sets.load(sets.TOY))
    assert all(name in things for name in toy.HELD_OUT)
    assert not any(name in text for name in toy.HELD_OUT for text in column("plain", 1))


def test_the_mixture_has_the_skill_in_every_fifth_row():
    (config,) = [load(c) for c in compose.cells(["dataset=toy/risky_advice_with_skill", "corpus=builtin"])]
    rows = variants.build(config)
    skill = [row for row in rows if " ~ " in row.messages[0]["content"]]
    assert len(skill) * 5 == len(rows) == variants.count(config) == config.train.max_examples
    assert sets.names(["in_domain"], config.dataset.domain) == ["advice"]


def test_the_careful_twins_are_interleaved():
    added = {
        "toy/capitals_in_french": ("toy", "french"),
        "toy/risky_advice_with_skill": ("builtin", "careful_advice"),
    }
    for dataset, (corpus, variant) in added.items():
        overrides = [f"dataset={dataset}", "corpus=toy", "intervention=interleave", "intervention.dose=0.25"]
        (config,) = [load(c) for c in compose.cells(overrides)]
        source = variants.interleaved(config)
        assert (source.corpus, source.variant) == (corpus, variant)
