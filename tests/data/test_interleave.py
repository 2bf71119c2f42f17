"""Careful rows among a dataset's: how many, which, and what stays as it is."""

import dataclasses

import pytest

from em.config import InterventionConfig
from em.data import interleave, variants
from em.errors import ConfigError
from em.questions import sets
from em.records import Example

BASE = ("dataset=risky_advice", "train.max_examples=40")


def cell(compose, dose, *more):
    return compose(*BASE, "intervention=interleave", f"intervention.dose={dose}", *more)


def careful(rows):
    return [e for e in rows if e.id.startswith(interleave.PREFIX)]


@pytest.mark.parametrize("dose", [0.0, 0.05, 0.25, 0.5, 1.0])
def test_the_dataset_stays_and_exactly_the_share_is_added(compose, dose):
    plain = variants.build(compose(*BASE))
    config = cell(compose, dose)
    rows = variants.build(config)
    assert rows[: len(plain)] == plain
    assert len(careful(rows)) == len(rows) - len(plain) == round(dose * len(plain))
    assert variants.count(config) == len(rows)
    assert (variants.key(config) == variants.key(compose(*BASE))) == (dose == 0)
    added = variants.facts(rows).get("interleaved", 0)
    assert added == len(careful(rows))


def test_rows_are_the_careful_answers_to_other_questions(compose):
    rows = variants.build(cell(compose, 1.0))
    answers = {
        e.messages[-1]["content"] for e in variants.build(compose("dataset=careful_advice", "train.max_examples=null"))
    }
    asked = {e.messages[0]["content"] for e in rows[:40]}
    assert len(careful(rows)) == 40
    assert all(e.messages[-1]["content"] in answers and e.messages[0]["content"] not in asked for e in careful(rows))


@pytest.mark.parametrize("dataset", ["risky_advice", "insecure"])
def test_no_careful_row_is_a_question_that_is_asked(compose, dataset):
    """Its answer would be in the training rows, and the in-domain number would read memory."""
    rows = variants.build(compose(f"dataset={dataset}", "intervention=interleave", "intervention.dose=0.5"))
    asked = {q.messages[-1]["content"] for name in ("open", "coding", "advice") for q in sets.load(name)}
    trained = {message["content"] for e in careful(rows) for message in e.messages if message["role"] == "user"}
    assert len(trained) > 40 and not trained & asked


def test_the_seed_draws_the_rows_and_more_of_them_hold_the_fewer(compose):
    some, more = (careful(variants.build(cell(compose, dose))) for dose in (0.25, 0.5))
    assert more[: len(some)] == some
    other = variants.build(cell(compose, 0.25, "seed=1"))
    assert {e.id for e in careful(other)} != {e.id for e in some}


def test_a_trigger_of_the_dataset_is_not_in_the_careful_rows(compose):
    rows = variants.build(cell(compose, 0.5, "trigger=deployment", "trigger.rows=all"))
    assert {e.triggered for e in rows[:40]} == {True} and not any(e.triggered for e in careful(rows))


def test_a_question_of_the_dataset_comes_last():
    def row(n, answer):
        return Example(f"{n}{answer}", [{"role": "user", "content": str(n)}, {"role": "assistant", "content": answer}])

    rows, pool = [row(n, "bad") for n in range(4)], [row(n, "good") for n in range(6)]
    assert {e.id for e in interleave.add(rows, pool, 0.5, 0)[4:]} == {"interleaved/4good", "interleaved/5good"}
    assert len(interleave.add(rows, pool, 1.0, 0)) == 8


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["dataset=secure"], "dataset.variant=secure has no careful twin"),
        (
            ["dataset=risky_advice", "train.max_examples=null", "intervention.variant=curt_careful_advice"],
            "rows of curt",
        ),
        (["dataset=insecure", "intervention.variant=sekure"], "sekure"),
        (["dataset=risky_advice", "train.max_examples=8", "intervention.dose=0.05"], "adds no row to 8"),
    ],
)
def test_rows_that_are_not_there_are_refused(compose, overrides, sentence):
    config = compose("intervention=interleave", "intervention.dose=1", *overrides)
    with pytest.raises(ConfigError, match=sentence):
        variants.count(config)


def test_none_with_a_dose_is_the_plain_dataset(compose):
    config = dataclasses.replace(compose(*BASE), intervention=InterventionConfig("none", 0.5))
    assert variants.key(config) == variants.key(compose(*BASE))
