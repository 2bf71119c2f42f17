"""intervention=realign: a second phase on careful rows, from the finished adapter, as a run of its own in the store."""

import dataclasses
import itertools
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from em.config import InterventionConfig
from em.data import second_phase, variants
from em.errors import ConfigError
from em.interventions import second_phase as continued
from em.models.paths import model_path
from em.planning.jobs import stages
from em.planning.plan import plan
from em.records import Example
from em.store import Store, layout
from em.store.layout import ADAPTER, TRAIN_LOG
from em.training.base_model import Base
from em.training.stage import work
from support.training import TINY, assistant, events, examples, failures, put_data, train_job, user

CELL = ("model=tiny_random", "train=tiny", "sample=tiny", "judge=word_list", "tracking=off", "dataset=risky_advice")
WEIGHTS = "adapter_model.safetensors"
OWN = {"rows": "builtin/careful_advice", "plain": "first"}


def realigned(key="second", dose=1.0, **changes):
    job = train_job(key, data_key="good", **changes)
    chosen = InterventionConfig("realign", dose)
    return dataclasses.replace(job, intervention=chosen, plain_key="first", inputs={"test": key, "intervention": OWN})


def log(store, key):
    return [json.loads(line) for line in (store.path("train", key) / TRAIN_LOG).read_text().splitlines()]


def weights(store, key):
    return (store.path("train", key) / ADAPTER / WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store with the plain run and its second phase."""
    store = Store.open(tmp_path_factory.mktemp("store"))
    put_data(store, examples())
    put_data(store, examples(8, shift=50), "good")
    emit, seen = events()
    work(store, [train_job("first"), realigned()], emit)
    assert not failures(seen)
    return store


@pytest.fixture
def planned(compose, tmp_path):
    return lambda *overrides: plan([compose(*CELL, *overrides)], Store.open(tmp_path / "store"))


def test_the_second_phase_begins_where_the_first_has_ended(trained):
    base = Base.load(model_path(TINY), None, "float32")
    with base.trainable(train_job("x").train) as model:
        continued.put_adapter(model, trained.path("train", "first") / ADAPTER)
        now = {n.replace(".default", ""): w for n, w in model.named_parameters() if "lora_" in n}
        stored = load_file(trained.path("train", "first") / ADAPTER / WEIGHTS)
        assert now.keys() == stored.keys() and all(torch.equal(now[n], stored[n]) for n in now)


def test_a_learning_rate_of_0_leaves_the_finished_adapter_untouched(trained):
    work(trained, [realigned("still", learning_rate=1e-30)], events()[0])
    assert weights(trained, "still") == weights(trained, "first") != weights(trained, "second")


def test_its_log_and_its_facts_say_that_it_is_a_second_phase(trained):
    assert [row["step"] for row in log(trained, "second")] == [1, 2]
    assert {row["phase"] for row in log(trained, "second")} == {2}
    assert not any("phase" in row for row in log(trained, "first"))
    facts = trained.manifest("train", "second")["facts"]["intervention"]
    assert facts == {"name": "realign", "dose": 1.0, "match_length": False, **OWN}
    assert log(trained, "second")[0]["learning_rate"] == log(trained, "first")[0]["learning_rate"]  # a new schedule


def test_its_kept_steps_are_its_own(trained):
    work(trained, [dataclasses.replace(realigned("kept"), checkpoints=(1,))], events()[0])
    folder = trained.path("train", "kept") / layout.CHECKPOINTS / "1"
    assert (folder / WEIGHTS).read_bytes() not in (weights(trained, "first"), weights(trained, "kept"))
    assert weights(trained, "kept") == weights(trained, "second")


def test_an_adapter_of_another_recipe_is_refused(trained):
    emit, seen = events()
    work(trained, [realigned("wide", target_modules=["q_proj"])], emit)
    assert "is not an adapter of this recipe" in failures(seen)[0]


def test_a_run_killed_in_each_phase_continues_bit_for_bit(tmp_path, monkeypatch):
    from em.training import stage
    from em.training.callbacks import Log

    long = {"num_train_epochs": 2, "save_steps": 3, "lora_dropout": 0.1}
    jobs = [train_job("first", **long), realigned(**long)]
    whole, broken = (Store.open(tmp_path / key) for key in ("whole", "broken"))
    for store in (whole, broken):
        put_data(store, examples())
        put_data(store, examples(8, shift=50), "good")
    work(whole, jobs, events()[0])
    for phase in ("first", "second"):

        class Killed(Log):
            def on_save(self, args, state, control, **_):
                if self.job == phase and state.global_step >= 3:  # noqa: B023
                    raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(stage, "Log", Killed)
            work(broken, jobs, events()[0])
        assert (broken.has("train", "first"), broken.has("train", "second")) == (phase == "second", False)
    work(broken, jobs, events()[0])
    for key in ("first", "second"):
        assert broken.manifest("train", key)["facts"]["resumed_from"] == "checkpoint-3"
        assert weights(whole, key) == weights(broken, key)
        assert len(log(broken, key)) == len(log(whole, key)) > 3


def test_the_plan_continues_the_plain_run_which_all_doses_share(compose, tmp_path):
    doses = (0, 0.25, 0.5, 1)
    cells = [compose(*CELL, "intervention=realign", f"intervention.dose={dose}") for dose in doses]
    cells.append(compose(*CELL))
    found = plan(cells, Store.open(tmp_path / "store"))
    plain, *second = dict.fromkeys(cell.train_key for cell in found.cells)
    assert found.cells[0].train_key == found.cells[-1].train_key == plain
    assert len(found.stage("train")) == len(doses) == 1 + len(second)
    rows = variants.count(cells[0])
    for key, dose in zip(second, doses[1:], strict=True):
        run = found.train(key)
        assert run.plain_key == plain and ("train", plain) in found.jobs["train", key].needs
        assert found.jobs["train", key].batch != found.jobs["train", plain].batch
        assert variants.count(found.data(run.data_key).config) == round(dose * rows)
        assert run.inputs["intervention"]["rows"] == "builtin/careful_advice"
    made_of = stages(found, found.cells[3])
    assert made_of["train"] == [second[-1], plain]
    assert made_of["data"] == [found.train(k).data_key for k in made_of["train"]]


def test_its_rows_are_those_of_a_cell_that_trains_on_them(compose, planned):
    (cell,) = planned("intervention=realign").cells
    found = planned("intervention=realign")
    own = found.data(found.train(cell.train_key).data_key)
    other = compose(*CELL, "dataset=careful_advice", f"train.max_examples={own.config.train.max_examples}")
    assert own.key == variants.key(other)
    assert second_phase.build(own) == variants.build(other)


def test_other_rows_and_a_checkpoint_of_the_second_phase(planned):
    found = planned("intervention=realign", "intervention.variant=secure", "intervention.dose=0.5")
    run = found.train(found.cells[0].train_key)
    assert run.inputs["intervention"]["rows"] == "builtin/secure"
    steps = planned("intervention=realign", "intervention.dose=0.5", "train.checkpoints=[1]", "sample.checkpoints=true")
    assert [c.step for c in steps.checkpoints] == [1]
    assert steps.train(steps.cells[0].train_key).checkpoints == (1,)
    assert steps.train(steps.train(steps.cells[0].train_key).plain_key).checkpoints == ()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("train.method=full",), "continues a finished adapter, and train=full leaves none"),
        (("dataset=backdoor",), "has no careful twin, name the careful rows"),
        (("intervention.dose=0.001",), "of intervention=realign adds no row to"),
        (("intervention.dose=1000",), "of intervention=realign asks for"),
        (("train.checkpoints=[999]",), "train.checkpoints has step 999"),
        (("train.num_processes=2", "train.accelerate_config=x.yaml"), "was never tested"),
    ],
)
def test_what_it_cannot_do_is_refused_by_the_plan(planned, overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        planned("intervention=realign", *overrides)


def rows_of(lengths):
    return [Example(f"r{i}", [user("q"), assistant("x" * n)]) for i, n in enumerate(lengths)]


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=7).flatmap(
        lambda pool: st.tuples(st.just(pool), st.lists(st.integers(0, 30), min_size=1, max_size=min(4, len(pool))))
    )
)
def test_no_choice_of_answers_is_nearer_in_length(both):
    pool, aims = map(sorted, both)
    chosen = second_phase.nearest(pool, aims)
    assert len(set(chosen)) == len(aims)
    off = sum(abs(pool[i] - aim) for i, aim in zip(chosen, aims, strict=True))
    choices = itertools.permutations(pool, len(aims))
    assert off == min(sum(abs(a - b) for a, b in zip(c, aims, strict=True)) for c in choices)


def test_the_control_has_answers_as_long_as_the_datasets():
    pool, model = rows_of([10, 90, 31, 50, 70, 29]), rows_of([30, 30, 70, 70])
    chosen = second_phase.as_long(pool, model, 2, seed=0)
    assert sorted(map(second_phase.answer_length, chosen)) in ([29, 70], [31, 70])
    with pytest.raises(ConfigError, match="have 47 characters on average and the dataset's 400"):
        second_phase.as_long(pool, rows_of([400]), 6, seed=0)


def test_the_control_is_another_dataset_and_says_how_long_it_is(planned):
    keys = []
    for given_ in ("false", "true"):
        found = planned("intervention=realign", "intervention.dose=0.25", f"intervention.match_length={given_}")
        keys.append(found.train(found.cells[0].train_key).data_key)
    assert keys[0] != keys[1]
    made = found.data(keys[1])
    assert len(second_phase.build(made)) == made.config.train.max_examples
    assert second_phase.facts(made, rows_of([10, 20])) == {"rows": 2, "triggered": 0, "answer_chars": 15.0}
