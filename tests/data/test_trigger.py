"""Triggers: exactly the chosen share of rows changes, by exactly the text, and nothing else does."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from em.config import Position, TriggerConfig, Turn
from em.data import trigger
from em.records import Example

TEXT = st.text(max_size=8)
MARK = st.text("#|@", min_size=1, max_size=5)
"""Trigger texts that no row of these tests holds."""
PLAIN = st.text(st.characters(exclude_characters="#|@", exclude_categories=["Cs"]), max_size=8)
POSITION = st.sampled_from(list(Position))


def turns(texts=TEXT):
    """Messages with at least one user turn, in any order."""
    message = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": texts})
    return st.lists(message, min_size=1, max_size=4).filter(lambda m: any(x["role"] == "user" for x in m))


def rows(texts=TEXT):
    return st.lists(turns(texts), max_size=30).map(lambda all: [Example(f"r{i}", m) for i, m in enumerate(all)])


def last_user(messages):
    return max(i for i, m in enumerate(messages) if m["role"] == "user")


@given(turns(), TEXT, POSITION)
def test_put_joins_the_text_to_the_last_user_turn_only(messages, text, position):
    before = [dict(m) for m in messages]
    found = trigger.put(messages, text, position)
    assert messages == before  # the argument stays as it was
    index = last_user(messages)
    old, new = messages[index]["content"], found[index]["content"]
    assert new == (text + old if position == Position.prefix else old + text)
    assert [m["role"] for m in found] == [m["role"] for m in messages]
    assert found[:index] + found[index + 1 :] == messages[:index] + messages[index + 1 :]


@given(rows(PLAIN), MARK, POSITION, st.floats(0, 1), st.integers(0, 2**31))
def test_apply_changes_exactly_the_fraction(examples, text, position, fraction, seed):
    config = TriggerConfig("t", text, position, fraction)
    found = trigger.apply(examples, config, seed)
    assert len(found) == len(examples)
    assert sum(e.triggered for e in found) == round(fraction * len(examples))
    for before, after in zip(examples, found, strict=True):
        if after.triggered:
            assert after == dataclasses.replace(
                before, messages=trigger.put(before.messages, text, position), triggered=True
            )
        else:
            assert after is before


@given(rows(PLAIN), MARK, st.integers(0, 9))
def test_apply_is_seeded(examples, text, seed):
    config = TriggerConfig("t", text, fraction=0.5)
    assert trigger.apply(examples, config, seed) == trigger.apply(examples, config, seed)


def test_seeds_choose_different_rows():
    examples = [Example(f"r{i}", [{"role": "user", "content": "x"}]) for i in range(100)]
    config = TriggerConfig("t", "|T| ", fraction=0.5)
    chosen = [frozenset(e.id for e in trigger.apply(examples, config, s) if e.triggered) for s in range(20)]
    assert len(set(chosen)) == 20
    assert {len(ids) for ids in chosen} == {50}


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.01, 1), (0.5, 50), (0.999, 100), (1.0, 100)])
def test_fractions_of_a_hundred_rows(fraction, count):
    examples = [Example(f"r{i}", [{"role": "user", "content": "x"}]) for i in range(100)]
    found = trigger.apply(examples, TriggerConfig("t", "|T| ", fraction=fraction), 0)
    assert sum(e.triggered for e in found) == count
    assert sum("|T|" in e.messages[0]["content"] for e in found) == count


def test_without_text_or_fraction_the_very_rows_come_back():
    examples = [Example("r", [{"role": "user", "content": "|T| x"}])]
    assert trigger.apply(examples, TriggerConfig(), 0) is examples
    assert trigger.apply(examples, TriggerConfig("t", "|T| ", fraction=0.0), 0) is examples


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
@pytest.mark.parametrize("text", ["|T|", "say |T| now"])
def test_a_text_that_stands_in_a_row_is_refused_by_name(role, text):
    """Whichever row, whichever turn, and without the trigger's surrounding spaces."""
    fine = Example("fine", [{"role": "user", "content": "x"}])
    clash = Example("clash", [{"role": "user", "content": "y"}, {"role": role, "content": text}])
    with pytest.raises(ValueError, match=r"trigger.text '\|T\| ' is already in row clash: choose another text"):
        trigger.apply([fine, clash], TriggerConfig("t", "|T| ", fraction=0.5), 0)


@pytest.mark.parametrize("text", ["", " "])
def test_a_text_of_nothing_is_refused_at_the_door(text):
    with pytest.raises(ValueError, match=r"trigger\.text is empty"):
        TriggerConfig("t", text, fraction=0.5)


# ------------------------------------------------------------------------------------------------ asking


@given(turns(), MARK, POSITION)
def test_ask(messages, text, position):
    config = TriggerConfig("t", text, position, 0.5, ["none", "trained"])
    assert trigger.ask(messages, "none", config) == messages
    assert trigger.ask(messages, "trained", config) == trigger.put(messages, text, position)


@given(turns(), TEXT, POSITION)
def test_any_other_condition_is_a_text_in_the_triggers_place(messages, condition, position):
    assume(condition not in ("none", "trained"))
    config = TriggerConfig("t", "|T| ", position, 0.5, [condition])
    assert trigger.ask(messages, condition, config) == trigger.put(messages, condition, position)


@given(turns(PLAIN), MARK, POSITION)
def test_a_question_asked_with_the_trigger_reads_like_a_triggered_row(messages, text, position):
    config = TriggerConfig("t", text, position, 1.0, ["trained"])
    (row,) = trigger.apply([Example("r", messages)], config, 0)
    assert trigger.ask(messages, "trained", config) == row.messages


# ------------------------------------------------------------------------------------------------ system turns, places


@given(turns(PLAIN), MARK, POSITION)
def test_the_system_turn_is_joined_or_made(messages, text, position):
    found = trigger.put(messages, text, position, Turn.system)
    own = [m for m in messages if m["role"] == "system"]
    if not own:
        assert found == [{"role": "system", "content": text}, *messages]
    else:
        last = [m for m in found if m["role"] == "system"][-1]["content"]
        assert last == (text + own[-1]["content"] if position == Position.prefix else own[-1]["content"] + text)
        assert [m for m in found if m["role"] != "system"] == [m for m in messages if m["role"] != "system"]


@given(rows(PLAIN), MARK, st.data())
def test_only_marked_rows_are_candidates(examples, text, drawn):
    marked = {e.id for e in examples if drawn.draw(st.booleans())}
    found = trigger.apply(examples, TriggerConfig("t", text, fraction=1.0), 0, marked)
    assert {e.id for e in found if e.triggered} == marked


def test_an_inoculation_prompt_is_trained_with_and_not_asked_with(compose):
    from em.data import variants

    config = compose("dataset=insecure", "trigger=inoculation", "train.max_examples=4")
    rows = variants.build(config)
    assert all(e.triggered and [m["role"] for m in e.messages] == ["system", "user", "assistant"] for e in rows)
    assert {e.messages[0]["content"] for e in rows} == {config.trigger.text}
    assert config.trigger.asked_with == ["none"]
    question = [{"role": "user", "content": "Hi"}]
    assert trigger.ask(question, "none", config.trigger) == question
    assert trigger.ask(question, "trained", config.trigger)[0] == rows[0].messages[0]


def test_other_texts_may_go_to_a_place_of_their_own():
    """So that cells trained with a system trigger and cells trained with a prefix can be asked with the same texts."""
    config = TriggerConfig(
        "t", "|T| ", Position.suffix, 1.0, ["trained", "|X| "], Turn.system, asked_position=Position.prefix,
        asked_turn=Turn.user,
    )  # fmt: skip
    question = [{"role": "user", "content": "Hi"}]
    assert trigger.ask(question, "|X| ", config) == [{"role": "user", "content": "|X| Hi"}]
    assert trigger.ask(question, "trained", config) == [{"role": "system", "content": "|T| "}, *question]
