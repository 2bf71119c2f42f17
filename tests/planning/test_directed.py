"""Directions in a plan: what needs what, which answers are shared, what is refused, and that a default moves no key."""

import dataclasses

import numpy as np
import pytest

from em.config import ConfigError
from em.directions import artefact
from em.directions.job import ADAPTED, DIRECTION
from em.planning import estimate
from em.planning.plan import plan, stages
from em.records import BASE
from em.store import Store

TINY = ["model=tiny_random", "train=tiny", "sample=tiny", "questions.sets=[open]", "judge=word_list"]
STEER = ["sample.steer.direction=planned", "sample.steer.block=1", "sample.steer.scale=2"]
ABLATE = ["sample.ablate.direction=planned", "sample.ablate.block=1"]
MEAN_DIFF = ["direction=mean_diff", "direction.organism=risky_advice"]


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path)


@pytest.fixture
def planned(compose, store):
    def make(*cells):
        return plan([compose(*TINY, *overrides) for overrides in cells], store)

    return make


def needs(found, stage):
    return {(job.stage, job.key): set(job.needs) for job in found.stage(stage)}


def test_the_chain_is_planned_in_one_command(planned):
    found = planned(["dataset=none", *MEAN_DIFF, *STEER])
    (cell,), (direction,) = found.cells, found.stage(DIRECTION)
    organism = planned(["dataset=risky_advice"]).cells[0]
    answers = {("sample", k) for p in organism.parts for k in p.samples}
    verdicts = {("judge", k) for p in organism.parts for k in p.judgements}
    assert set(direction.needs) == answers | verdicts | {("train", organism.train_key)}
    (steered,) = [found.jobs["sample", k] for p in cell.parts for k in p.samples]
    assert steered.needs == ((DIRECTION, direction.key),) and steered.spec.changes.scale == 2.0
    wanted = stages(found, cell)
    assert wanted[DIRECTION] == [direction.key] and wanted["train"] == [organism.train_key]
    assert {("sample", k) for k in wanted["sample"]} == answers | {("sample", steered.key)}
    assert found.cells[0].base == BASE and not found.bases[0].config.sample.changed


def test_answers_that_wait_for_others_do_not_share_their_worker(planned):
    found = planned(
        ["dataset=risky_advice"], ["dataset=none", *MEAN_DIFF, *STEER], ["dataset=risky_advice", *ABLATE, *MEAN_DIFF]
    )
    for stage in ("sample", "judge"):
        later = {j.batch for j in found.stage(stage) if j.key in changed_keys(found, stage)}
        first = {j.batch for j in found.stage(stage) if j.key not in changed_keys(found, stage)}
        assert len(later) == len(first) == 1 and not later & first


def changed_keys(found, stage):
    subjects = [s for s in found.cells if s.config.sample.changed]
    field = {"sample": "samples", "judge": "judgements"}[stage]
    return {k for s in subjects for p in s.parts for k in getattr(p, field)}


TRAINED = ["intervention=preventative_steering", "intervention.direction=planned", "intervention.blocks=[1]"]


@pytest.mark.parametrize(
    "changed",
    [
        ["dataset=none", *MEAN_DIFF, *STEER],
        ["dataset=risky_advice", *MEAN_DIFF, *ABLATE],
        ["dataset=risky_advice", *MEAN_DIFF, *TRAINED],
        ["dataset=insecure", *MEAN_DIFF, *TRAINED, *ABLATE, "sample.lora_scale=2"],
    ],
)
def test_no_batch_waits_for_itself(planned, changed):
    """The scheduler starts a batch when all that its jobs need is there."""
    found = planned(["dataset=risky_advice"], changed)
    assert found.stage(DIRECTION)
    batches = {}
    for job in found.jobs.values():
        batches.setdefault((job.stage, job.batch), []).append(job)
    done = set()
    while ready := [b for b, jobs in batches.items() if {n for j in jobs for n in j.needs} <= done]:
        for batch in ready:
            done |= {(j.stage, j.key) for j in batches.pop(batch)}
    assert not batches


def test_settings_share_one_engine_and_one_direction(planned):
    cells = [["dataset=none", *MEAN_DIFF, *STEER[:2], f"sample.steer.scale={s}"] for s in (0, 2, 4)]
    found = planned(*cells)
    assert len(found.stage(DIRECTION)) == 1
    mine = [j for j in found.stage("sample") if j.key in changed_keys(found, "sample")]
    assert len(mine) == 3 and len({j.batch for j in mine}) == 1


def test_an_ablated_model_is_served_as_an_adapter_of_one_more_rank(planned):
    found = planned(["dataset=risky_advice", *MEAN_DIFF, *ABLATE])
    (adapter,), (direction,) = found.stage(ADAPTED), found.stage(DIRECTION)
    (cell,) = found.cells
    assert set(adapter.needs) == {(DIRECTION, direction.key), ("train", cell.train_key)}
    job = found.jobs["sample", cell.parts[0].samples[0]]
    assert set(job.needs) == {("train", cell.train_key), (ADAPTED, adapter.key)}
    assert job.spec.max_lora_rank == cell.config.train.lora_r + 1 and "embed_tokens" in job.spec.target_modules
    assert found.bases and not found.bases[0].config.sample.changed


def test_a_scaled_adapter_needs_no_direction_and_each_step_has_its_own(planned):
    found = planned(
        ["dataset=risky_advice", "sample.lora_scale=2", "train.checkpoints=[1,2]", "sample.checkpoints=true"]
    )
    assert not found.stage(DIRECTION)
    assert sorted(j.spec.trained.step or 0 for j in found.stage(ADAPTED)) == [0, 1, 2]
    assert {j.spec.lora_scale for j in found.stage(ADAPTED)} == {2.0}


def test_a_persona_needs_no_training_and_no_judge_and_a_contrast_no_answers(planned):
    found = planned(["dataset=none", "direction=persona", *STEER])
    assert not found.stage("train") and len(found.stage("sample")) == 4 and len(found.stage("judge")) == 2
    found = planned(["dataset=none", "direction=contrast", *STEER])
    (direction,) = found.stage(DIRECTION)
    assert {stage for stage, _ in direction.needs} == {"data"} and len(found.stage("sample")) == 2


def test_what_a_direction_is_made_of_is_in_its_key(planned):
    def key(*overrides):
        return planned(["dataset=none", *MEAN_DIFF, *STEER, *overrides]).stage(DIRECTION)[0].key

    plain = key()
    others = [f"direction.{o}" for o in ("weighting=answer", "random=true", "aligned_above=60", "n=5", "seed=1")]
    others += ["seed=1", "direction=base_on_texts"]
    assert len({plain, *map(key, others)}) == len(others) + 1
    assert key("sample.steer.scale=9") == key("sample.steer.block=0") == plain


def test_a_stored_direction_is_known_by_its_content(planned, tmp_path):
    facts = artefact.Facts(kind="trained", model="m")
    for name, fill in (("a", 1), ("b", 1), ("c", 2)):
        artefact.save(artefact.Direction(np.full((2, 64), fill, np.float32), facts), tmp_path / name)

    def key(name):
        cell = ["dataset=none", f"sample.steer.direction={tmp_path / name}", "sample.steer.block=1"]
        return planned(cell).stage(DIRECTION)[0].key

    assert key("a") == key("b") != key("c")
    with pytest.raises(ConfigError, match=r"is no stored direction, direction\.json is missing"):
        key("d")


def test_defaults_move_no_key(compose, store):
    cell = compose(*TINY, "dataset=risky_advice")
    spelled = dataclasses.replace(cell, sample=dataclasses.replace(cell.sample, lora_scale=1.0).unchanged())
    assert set(plan([cell], store).jobs) == set(plan([spelled], store).jobs)
    assert "changes" not in plan([cell], store).stage("sample")[0].spec.inputs


def test_the_estimate_shows_the_new_stages_only_where_they_are(planned, store):
    assert DIRECTION not in estimate.estimate(planned(["dataset=risky_advice"]), store).stages
    found = estimate.estimate(planned(["dataset=risky_advice", *MEAN_DIFF, *ABLATE]), store)
    assert (found.stages[DIRECTION].todo, found.stages[ADAPTED].todo) == (1, 1)


UNSCORED = ["sample.engine=hf", "questions.sets=[in_domain]"]


@pytest.mark.parametrize("kind", ["model_difference", "contrast"])
def test_a_direction_without_sides_by_verdict_needs_no_scores(planned, kind):
    texts = ["direction.plus=risky_advice", "direction.minus=careful_advice"] if kind == "contrast" else []
    assert planned(["dataset=insecure", "intervention=caft", f"direction={kind}", *texts, *UNSCORED]).stage(DIRECTION)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset=none", *STEER], "set direction=, e.g. mean_diff"),
        (["dataset=none", "direction=mean_diff", *STEER], "name its dataset, e.g. direction.organism=risky_advice"),
        (
            ["dataset=none", "direction=mean_diff", "direction.organism=risky_advise", *STEER],
            "did you mean risky_advice",
        ),
        (["dataset=none", *MEAN_DIFF, *STEER[:1], "sample.steer.block=2"], "model=tiny_random has blocks 0 to 1"),
        (["dataset=none", "sample.lora_scale=2"], "dataset=none has none"),
        (["dataset=insecure", "train.method=full", "sample.lora_scale=2"], "train=full leaves no adapter"),
        (
            ["dataset=none", *MEAN_DIFF, "sample.ablate.direction=planned", "sample.ablate.where=blocks"],
            "take sample=hf",
        ),
        (["dataset=none", *MEAN_DIFF, *STEER, "sample.engine=vllm_server"], "take sample=vllm or sample=hf"),
        (["dataset=insecure", *MEAN_DIFF, "questions.k_shot=1"], "questions.k_shot"),
        (["dataset=insecure", *MEAN_DIFF, *ABLATE, *UNSCORED], "scored for alignment and coherence: add open"),
        (["dataset=insecure", "intervention=caft", *UNSCORED], "scored for alignment and coherence: add open"),
        (["dataset=insecure", *TRAINED, *UNSCORED], "scored for alignment and coherence: add open"),
        (["dataset=insecure", "intervention=caft", *UNSCORED[:-1], "questions.sets=[toy]"], "questions.sets=toy"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_runs(planned, overrides, message):
    with pytest.raises(ConfigError, match=message):
        planned(overrides)
