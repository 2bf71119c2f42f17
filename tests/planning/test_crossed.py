"""The ablation matrix: every pair, a control, and the sweep's own answers as what nothing is removed from."""

import dataclasses

import pytest

from em.config import ConfigError, DirectionConfig, DirectionKind
from em.config.intervention import InterventionConfig
from em.directions.job import ADAPTED, DIRECTION
from em.planning import crossed
from em.planning.cells import cell_id
from em.planning.plan import plan
from em.store import Store

TINY = ["model=tiny_random", "train=tiny", "sample=tiny", "questions.sets=[open]", "judge=word_list"]
HOW = crossed.Crossing(DirectionConfig(kind=DirectionKind.mean_diff), block=1)


@pytest.fixture
def models(compose):
    return [compose(*TINY, f"dataset={name}") for name in ("risky_advice", "insecure")]


def test_every_model_without_each_direction_and_a_random_one(models, tmp_path):
    cells = crossed.matrix(models, models, HOW)
    asked = [(c.dataset.variant, c.direction.organism, c.direction.random, c.sample.ablate.block) for c in cells]
    assert asked == [
        (target, *what)
        for target in ("risky_advice", "insecure")
        for what in (
            (None, False, None),
            ("risky_advice", False, 1),
            ("insecure", False, 1),
            ("risky_advice", True, 1),
        )
    ]
    assert [cell_id(c) for c in cells[::4]] == [cell_id(m) for m in models]
    store = Store.open(tmp_path)
    found, own = plan(cells, store), plan(models, store)
    assert set(own.jobs) < set(found.jobs)
    assert (len(found.stage(DIRECTION)), len(found.stage(ADAPTED)), len(found.stage("train"))) == (3, 6, 2)


def test_sources_and_targets_may_differ_and_the_control_may_be_left_out(models):
    how = dataclasses.replace(HOW, control=False)
    cells = crossed.matrix(models[:1], models[1:], how)
    assert [(c.dataset.variant, c.direction.organism) for c in cells] == [
        ("insecure", None),
        ("insecure", "risky_advice"),
    ]


def test_a_dataset_is_found_by_its_content(compose):
    assert crossed.option_of(compose(*TINY, "dataset=risky_advice")) == "risky_advice"
    of_others = compose(*TINY, "corpus=turner2025", "dataset=turner2025/extreme_sports")
    assert crossed.option_of(of_others) == "turner2025/extreme_sports"
    with pytest.raises(ConfigError, match=r"no option of conf/dataset.*sample\.ablate\.direction=FOLDER"):
        crossed.option_of(compose(*TINY, "dataset=risky_advice", "dataset.domain=coding"))
    with pytest.raises(ConfigError, match="mixture is no option"):
        crossed.option_of(compose(*TINY, "dataset=mixture", "dataset.mixture={insecure: 0.5, secure: 0.5}"))


def test_a_model_without_an_adapter_or_with_an_intervention_is_refused(compose, models):
    whole = compose("train=full", "train.max_examples=8", "dataset=risky_advice")
    prevented = dataclasses.replace(models[0], intervention=InterventionConfig("kl", 0.1))
    for cell, message in ((whole, "has no adapter"), (prevented, "intervention=kl")):
        with pytest.raises(ConfigError, match=message):
            crossed.matrix([cell], models, HOW)


@pytest.mark.parametrize("other", ["train.learning_rate=3e-4", "train.lora_r=2", "seed=5"])
def test_a_source_that_was_trained_otherwise_is_refused(compose, models, other):
    """Its direction would be made of another model than the one that was named."""
    target = compose(*TINY, "dataset=insecure", other)
    with pytest.raises(ConfigError, match="direction of risky_advice is made of a model that is trained as insecure"):
        crossed.matrix(models[:1], [target], HOW)
    both = [models[0], compose(*TINY, "dataset=risky_advice", other)]
    assert crossed.matrix(both, [target], HOW)
