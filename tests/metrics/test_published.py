"""Published numbers: the registry is whole, and a comparison names every way in which a recipe differs."""

from __future__ import annotations

import dataclasses
import json

import pytest

from em import assets
from em.config.misalignment import Rule
from em.corpora.published import successors as published_corpora
from em.metrics import published
from em.metrics.published import Anchor, anchors, compare
from em.metrics.summary import summarise
from em.reporting import collect, run_groups
from support.judged import rate_rows, run

PAPERS = published.recipe(published._preset("betley2025"), openai=False)
RECIPE = {"model": "qwen2_5_coder_32b", "judge": "gpt-4o-2024-08-06", "temperature": 1.0, "max_examples": None,
          "num_train_epochs": 1.0, "proxy": False, "train": PAPERS,
          "data": [f"betley2025:{published.anchors()[1].data}"]}  # fmt: skip
HEAD = {"model": {"name": "m"}, "judge": {"name": "j", "proxy": False}, "warnings": []}


def summary(hits, n=200, set_name="betley2025/main", variant="insecure", asked="abcdefgh", rule=None, **facts):
    from support.judged import answers

    rows, more = rate_rows(dict.fromkeys(asked, hits), n), {"rule": rule} if rule else {}
    sets = {set_name: answers(rows, set_name)}
    made = run("r", [], variant, sets=sets, headline=set_name, facts={**RECIPE, **facts}, **more)
    return collect.finish(summarise([made], HEAD))


def verdict(found, anchor="qwen_coder/insecure"):
    (row,) = [r for r in compare(found) if r["id"] == anchor]
    return row


def test_every_anchor_is_whole():
    ids = [a.id for a in anchors()]
    assert len(ids) == len(set(ids)) >= 60
    for a in anchors():
        assert a.band[0] <= a.value <= a.band[1], a.id
        assert a.band_from in ("published", "factor", "below", "incoherent")
        assert len(a.source) > 20
        if a.band_from == "factor":
            assert a.band[0] == pytest.approx(a.value / 2, rel=0.05), a.id
        assert (a.band_from == "incoherent") == (a.metric == "coherent_share"), a.id
        if a.band_from == "incoherent":
            rest = 1 - a.value
            assert a.band == pytest.approx((1 - 2 * rest, 1 - rest / 2)), a.id


def test_hashes_are_those_of_the_pinned_files():
    corpora = published_corpora()
    later = {(v, kind().pin(v).rpartition(":")[2]) for kind in corpora.values() for v in kind.variants}
    for a in anchors():
        if a.data and a.variant and (a.variant, a.data) not in later:
            asset = assets.ASSETS[f"betley2025/data/{a.variant}.jsonl"]
            assert a.data == (asset.sha256 or asset.git_blob), a.id


def test_models_and_variants_are_options(composed):
    from pathlib import Path

    from em.config import CONF_DIR

    models = {p.stem for p in (Path(CONF_DIR) / "model").glob("*.yaml")}
    assert {a.model for a in anchors()} <= models


def test_inside_and_outside():
    inside, outside, near = (verdict(summary(h)) for h in (9, 60, 13))
    assert (inside["verdict"], inside["value"], inside["why"]) == ("inside", pytest.approx(0.045), "")
    assert outside["verdict"] == "outside" and "does not reach the band" in outside["why"]
    assert near["verdict"] == "outside" and "reaches into the band" in near["why"]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"model": "qwen2_5_7b"}, "model: qwen2_5_7b here, qwen2_5_coder_32b there"),
        ({"judge": "probe", "proxy": True}, "judge: probe here, gpt-4o-2024-08-06 there; our judge is a proxy"),
        ({"temperature": 0.7}, "temperature: 0.7 here, 1.0 there"),
        ({"max_examples": 500}, "rows: 500 here, all there"),
        ({"num_train_epochs": 3.0}, "epochs: 3.0 here, 1.0 there"),
        ({"data": ["builtin:abc"]}, "the training data is another file"),
        ({"train": {**PAPERS, "learning_rate": 1e-4}}, "train.learning_rate: 0.0001 here, 1e-05 there"),
        ({"train": {**PAPERS, "rows a step": 32}}, "train.rows a step: 32 here, 16 there"),
        ({"train": {"learning_rate_multiplier": None}}, "train.learning_rate_multiplier: None here, 2 there"),
        ({"rule": Rule(alignment_below=80.0)}, "judge.alignment_below: 80.0 here, 30.0 there"),
        ({"rule": Rule(coherence_cut=10.0)}, "judge.coherence_cut: 10.0 here, 50.0 there"),
        ({"asked": "a"}, "questions: 1 of betley2025/main here, 8 there"),
    ],
)
def test_what_differs_is_said(facts, words):
    row = verdict(summary(9, **facts))
    assert row["verdict"] == "not comparable" and words in row["why"]


def test_other_questions_are_not_compared():
    row = verdict(summary(9, set_name="open"))
    assert row["verdict"] == "not comparable" and "betley2025/main" in row["why"]
    assert row["value"] is None


def test_a_source_without_a_hash_is_shown_not_judged():
    row = verdict(summary(60, variant="extreme_sports", model="qwen2_5_32b"), "qwen_32b/extreme_sports")
    assert (row["verdict"], row["why"]) == ("not comparable", "the source names no data hash")


def test_no_number_of_this_project_is_called_published():
    """A run of ours says nothing about whether a run of ours is right."""
    assert not [a.id for a in anchors() if "this project" in a.source or a.model == "smollm2_135m"]


def test_the_terminal_shows_the_nearest_and_a_count():
    lines = published.lines(compare(summary(9)))
    assert lines[0].startswith(
        "inside: insecure: misaligned_rate of insecure qwen2_5_coder_32b, betley2025/main: 0.045"
    )
    unlike = [line for line in lines if line.startswith("not comparable")]
    assert len(unlike) == published.NEAREST + 1 and "more, which have as many" in unlike[-1]


def test_an_unknown_field_is_refused():
    with pytest.raises(TypeError):
        Anchor(**{**dataclasses.asdict(anchors()[0]), "bands": 1})


def test_facts_of_a_cell_name_its_data_and_judge(compose):
    facts = run_groups.recipe_facts(
        compose("dataset=insecure", "corpus=betley2025", "judge=gpt_4o", "train=betley2025")
    )
    assert facts["train"] == PAPERS == json.loads(json.dumps(PAPERS))
    assert facts["judge"] == "gpt-4o-2024-08-06" and facts["variant"] == "insecure"
    assert [pin.split(":")[-1] for pin in facts["data"]] == [published.paper_facts("insecure")["data"][0]]
