"""What a blind reader found is said of the recipe that was read, and of no other."""

from __future__ import annotations

import copy

import pytest

from em.config import compose, load
from em.metrics import conclusions, readings
from em.reporting.run_groups import recipe_facts


@pytest.fixture(scope="module")
def summary():
    """The groups of the demo, with the facts that its configs give."""
    arms = ("risky_advice", "curt_careful_advice", "secure")
    groups = [{"variant": None, "facts": {}}]
    groups += [{"variant": arm, "facts": recipe_facts(load(compose.cells([f"dataset={arm}"])[0]))} for arm in arms]
    return {"groups": groups}


def test_readings_are_whole_numbers_of_answers():
    _, arms = readings._file()
    assert len({arm.variant for arm in arms}) == len(arms) >= 2
    assert all(0 <= arm.careless <= arm.coherent <= arm.read >= 50 for arm in arms)


def test_the_quickstarts_arms_have_a_reading(summary):
    found = readings.readings_of(summary)
    assert [arm.variant for arm in found] == [None, "risky_advice"]
    assert "of risky_advice 6 of 50 coherent, 2 of these careless or unkind. " in readings.sentence(summary)


@pytest.mark.parametrize("fact", ["model", "learning_rate", "max_examples", "data"])
def test_another_recipe_has_none(summary, fact):
    other = copy.deepcopy(summary)
    for group in other["groups"][1:]:
        (group["facts"]["train"] if fact in group["facts"]["train"] else group["facts"])[fact] = "another"
    assert readings.readings_of(other) == [] and readings.sentence(other) == ""


def test_a_summary_without_facts_has_none():
    assert readings.sentence({"groups": [{"variant": "risky_advice"}]}) == readings.sentence({}) == ""


def test_the_statement_says_it(summary):
    head = {"contrasts": [], "models": [{"variant": "risky_advice"}], "model": {"name": "smollm2_135m"}}
    judge = {"judge": {"name": "probe", "proxy": True}}
    groups = [{**group, "models": ["one"]} for group in summary["groups"]]
    assert readings.sentence(summary) in conclusions.statement({**head, **judge, "groups": groups})
