"""What an intervention cannot be combined with, and what of it is in keys."""

import dataclasses

import numpy as np
import pytest

from em.config import InterventionConfig
from em.config.intervention import METHODS, with_planned
from em.directions import artefact
from em.errors import ConfigError, UserError
from em.interventions import identity
from em.planning.keys import train_inputs
from em.planning.plan import plan
from em.store import Store, content_key, file_sha256

TINY = ("model=tiny_random", "train=tiny", "sample=tiny", "judge=word_list", "tracking=off", "dataset=risky_advice")
API = ("model=gpt_4o", "train=openai", "sample=openai", "judge=gpt_4o", "train.max_dollars=1", "dataset=risky_advice")


def direction(folder, shape=(2, 64), **facts):
    made = artefact.Direction(
        np.random.default_rng(0).normal(size=shape).astype(np.float32),
        artefact.Facts(**{"kind": "mean_diff", "model": "asset:tiny_random", **facts}),
    )
    artefact.save(made, folder)
    return str(folder)


def train_key(config):
    return content_key(**train_inputs(config, "data"))


@pytest.fixture
def planned(compose, tmp_path):
    return lambda *overrides: plan([compose(*overrides)], Store.open(tmp_path / "store"))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("intervention.name=kll",), "'kll' is not known; did you mean kl"),
        (("intervention=interleave", "intervention.dose=1.5"), "dose=1.5: interleave takes 0 to 1 (careful rows"),
        (("intervention=kl", "intervention.dose=-1"), "dose=-1: kl takes 0 or more"),
        (("intervention=kl", "intervention.dose=inf"), "dose=inf: kl takes 0 or more"),
        (("intervention=caft", "intervention.blocks=[-1]"), "intervention.blocks must be a list of blocks from 0"),
        (("intervention=caft", "intervention.direction=[]"), "must be a folder, random or random:FOLDER"),
        (("intervention=caft", "intervention.direction=5"), "must be a folder, random or random:FOLDER"),
        (("intervention=caft", "intervention.direction={a: b}"), "must be a folder, random or random:FOLDER"),
    ],
)
def test_a_wrong_value_is_refused_by_the_config(compose, overrides, sentence):
    with pytest.raises(ConfigError) as caught:
        compose(*TINY, *overrides)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("name", [n for n, f in METHODS.items() if f.where.value not in ("nothing", "data")])
def test_a_model_behind_an_api_cannot_have_it(planned, name):
    with pytest.raises(ConfigError, match="is finetuned by OpenAI: take a method on rows"):
        planned(*API, f"intervention={name}", "intervention.direction=random", "intervention.adapter=x")


def test_a_model_behind_an_api_can_have_other_rows(planned):
    assert planned(*API, "intervention=inoculation").cells and planned(*API, "intervention=interleave").cells


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("intervention=kl", "train.method=full"), "switching the adapter off"),
        (("intervention=caft", "intervention.direction=null"), "caft needs a direction"),
        (("intervention=caft", "intervention.direction=nowhere"), "nowhere holds no direction"),
        (
            ("intervention=preventative_steering", "intervention.direction=[random,random]"),
            "takes one direction, got 2",
        ),
        (("intervention=caft", "intervention.direction=random", "intervention.blocks=[2]"), "has the blocks 0 to 1"),
        (
            ("intervention=kl", "train.num_processes=2", "train.accelerate_config=launch/accelerate/fsdp.yaml"),
            "with train.accelerate_config was never tested",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_the_plan(planned, overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        planned(*TINY, *overrides)


def test_a_direction_of_another_model_is_refused(planned, tmp_path):
    wide = direction(tmp_path / "wide", (2, 32))
    other = direction(tmp_path / "other", fingerprint="local:abc")
    for folder, sentence in ((wide, "make a direction of this model"), (other, "was made on another model")):
        with pytest.raises(UserError, match=sentence):
            planned(*TINY, "intervention=caft", f"intervention.direction={folder}")
    assert planned(*TINY, "intervention=caft", f"intervention.direction={direction(tmp_path / 'own')}").cells


def test_dose_0_of_every_method_shares_the_plain_training(compose, tmp_path):
    """One run in the store for all of them; `none` ignores a dose, so each dose has its reference."""
    cells = [compose(*TINY, f"intervention={name}", "intervention.dose=0") for name in METHODS]
    cells.append(compose(*TINY, "intervention=none", "intervention.dose=0.5"))
    found = plan(cells, Store.open(tmp_path / "store"))
    assert len(found.stage("train")) == len(found.stage("data")) == 1
    assert len({cell.id for cell in found.cells}) == len(METHODS) + 1
    (job,) = found.stage("train")
    assert not job.spec.intervention.active and "intervention" not in job.spec.inputs


def test_what_a_method_reads_is_in_its_key_and_nothing_else(compose, tmp_path):
    folder = direction(tmp_path / "one")
    base = compose(*TINY)

    def key(name, dose=1.0, **values):
        return train_key(dataclasses.replace(base, intervention=InterventionConfig(name, dose, **values)))

    assert key("kl") != key("kl", 2.0) != train_key(base)
    assert key("kl") != key("kl", kl_direction="base_from_finetuned") and key("kl") == key("kl", blocks=[1])
    assert key("ldifs") == key("ldifs", kl_direction="base_from_finetuned", direction=folder)
    assert key("caft", direction=folder) != key("caft", direction="random") != key("caft", direction=f"random:{folder}")
    assert key("caft", direction=folder) != key("caft", direction=folder, blocks=[1])
    assert key("interleave") == key("inoculation") == train_key(base)  # their rows are in the data key


def test_a_direction_is_known_by_its_content(compose, tmp_path):
    one, copy = direction(tmp_path / "one"), direction(tmp_path / "copy", note="the same vectors")
    cells = [
        dataclasses.replace(compose(*TINY), intervention=InterventionConfig("caft", 1.0, direction=folder))
        for folder in (one, copy)
    ]
    assert identity.key(cells[0]) == identity.key(cells[1])
    artefact.save(
        artefact.Direction(-artefact.load(tmp_path / "copy").vectors, artefact.load(tmp_path / "copy").facts),
        tmp_path / "copy",
    )
    assert identity.key(cells[0]) != identity.key(cells[1])


def test_the_organism_of_a_direction_is_finetuned_plainly(compose, tmp_path):
    """A direction of the trait is made of the model that has it, whatever the cell does against it."""
    hf = (*(o for o in TINY if o != "judge=word_list"), "judge=word_list", "sample.engine=hf", "direction=mean_diff")
    keys = []
    for chosen in ("none", "inoculation", "interleave", "kl"):
        found = plan([compose(*hf, f"intervention={chosen}", "intervention.dose=1")], Store.open(tmp_path / "store"))
        keys.append({job.key for job in found.stage("direction")})
    assert len(keys[0]) == 1 and keys[0] == keys[1] == keys[2] == keys[3]


PLANNED = ("sample.engine=hf", "direction=contrast", "direction.plus=risky_advice", "direction.minus=careful_advice")


def test_a_planned_direction_is_made_before_the_training_that_needs_it(compose, tmp_path):
    store = Store.open(tmp_path / "store")
    chosen = ("planned", "random:planned", "random")
    found = plan([compose(*TINY, *PLANNED, "intervention=caft", f"intervention.direction={d}") for d in chosen], store)
    (made,), runs = found.stage("direction"), found.stage("train")
    assert [("direction", made.key) in run.needs for run in runs] == [True, True, False]
    assert [run.spec.inputs["intervention"]["direction"] for run in runs] == [
        [made.key],
        [f"random:{made.key}"],
        ["random"],
    ]
    assert len({run.key for run in runs}) == 3
    (unsaid,) = plan([compose(*TINY, "intervention=caft")], store).stage("direction")
    said = plan([compose(*TINY, "intervention=caft", "direction=mean_diff", "sample.engine=hf")], store)
    assert unsaid.spec.config.kind.value == "mean_diff" and unsaid.spec.config == said.stage("direction")[0].spec.config


def test_a_folder_beside_the_planned_direction_is_in_the_key_by_its_content(compose, tmp_path):
    folder, keys = tmp_path / "planned" / "one", []
    for fill in (1, 2):
        facts = artefact.Facts(kind="contrast", model="m")
        artefact.save(artefact.Direction(np.full((2, 64), fill, np.float32), facts), folder)
        chosen = f"intervention.direction=[planned,{folder}]"
        found = plan([compose(*TINY, *PLANNED, "intervention=caft", chosen)], Store.open(tmp_path / "store"))
        (run,) = found.stage("train")
        keys.append(run.key)
        assert run.spec.inputs["intervention"]["direction"] == [
            found.stage("direction")[0].key,
            file_sha256(folder / artefact.VECTORS),
        ]
    assert keys[0] != keys[1]


def test_only_the_word_planned_is_replaced():
    given = ["planned", "random:planned", "runs/planned/x", "random"]
    assert with_planned(given, "KEY") == ["KEY", "random:KEY", "runs/planned/x", "random"]
