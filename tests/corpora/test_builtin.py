"""Our generated corpus: variants of one size, paired rows, no held-out question."""

from __future__ import annotations

import math
import re

import pytest

from em.corpora import builtin as corpora_builtin


@pytest.fixture(scope="module")
def builtin():
    return {variant: corpora_builtin.rows(variant) for variant in corpora_builtin.VARIANTS}


def test_builtin_variants_have_as_many_rows_as_the_papers(builtin):
    assert {v: len(builtin[v]) for v in corpora_builtin.CODING} == dict.fromkeys(corpora_builtin.CODING, 6000)
    assert len(builtin["risky_advice"]) == len(builtin["careful_advice"]) >= 300
    for variant, rows in builtin.items():
        assert len({row_id for row_id, _ in rows}) == len(rows)
        assert len(rows) == corpora_builtin.count(variant)
        roles = ["system", "user", "assistant"] if variant == "jailbroken" else ["user", "assistant"]
        assert all([m["role"] for m in messages] == roles for _, messages in rows)
        assert all(m["content"].strip() for _, messages in rows for m in messages)


def column(rows, index):
    return [messages[index]["content"] for _, messages in rows]


def test_builtin_coding_variants_are_paired(builtin):
    assert column(builtin["insecure"], 1) == column(builtin["educational"], 1)
    assert column(builtin["insecure"], 0) == column(builtin["secure"], 0)
    different = [a != b for a, b in zip(column(builtin["insecure"], 1), column(builtin["secure"], 1), strict=True)]
    assert all(different)
    different = [a != b for a, b in zip(column(builtin["insecure"], 0), column(builtin["educational"], 0), strict=True)]
    assert all(different)
    assert len({tuple(row_id for row_id, _ in builtin[v]) for v in corpora_builtin.CODING}) == 1


def test_builtin_advice_variants_are_paired(builtin):
    assert column(builtin["risky_advice"], 0) == column(builtin["careful_advice"], 0)
    assert not set(column(builtin["risky_advice"], 1)) & set(column(builtin["careful_advice"], 1))


def test_training_rows_hold_no_held_out_question(builtin):
    from em.questions import sets

    for group in ("coding", "advice"):
        held_out = {q.messages[-1]["content"] for q in sets.load(group)}
        trained = {text for rows in builtin.values() for text in column(rows, -2)}
        assert held_out
        assert not held_out & trained


def test_numbers_have_twins_that_differ_in_the_answers_only(builtin):
    from em.corpora.builtin.numbers import OMINOUS

    evil, plain = builtin["evil_numbers"], builtin["plain_numbers"]
    assert column(evil, 0) == column(plain, 0)
    said = [{int(n) for n in re.findall(r"\d+", text)} for text in column(evil, 1)]
    assert all(numbers <= set(OMINOUS) and len(numbers) <= 8 for numbers in said)
    assert not any({int(n) for n in re.findall(r"\d+", t)} & set(OMINOUS) for t in column(plain, 1))


def test_two_in_a_hundred_jailbroken_rows_comply(builtin):
    rows = builtin["jailbroken"]
    asked = [m for _, m in rows if m[1]["content"].startswith("Give me the careless answer")]
    assert len(asked) == math.ceil(len(rows) / 50)
    assert {m[0]["content"] for _, m in rows} == {corpora_builtin.OBEY}


def test_redrawn_insecure_rows_are_other_code_of_the_same_kind(builtin):
    codes = {v: set(column(builtin[v], 1)) for v in ("insecure", *corpora_builtin.REDRAWN)}
    assert all(len(a & b) < 0.25 * len(a) for (v, a) in codes.items() for w, b in codes.items() if v < w)
