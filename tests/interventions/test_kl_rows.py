"""intervention.kl_rows: the divergence on rows of another dataset, read beside the training rows in every step."""

import dataclasses
import json

import pytest

from em.config import InterventionConfig
from em.errors import ConfigError
from em.models.paths import model_path
from em.planning.estimate import estimate
from em.planning.jobs import stages
from em.planning.plan import plan
from em.store import Store
from em.store.layout import ADAPTER, TRAIN_LOG
from em.training.base_model import Base
from em.training.batches import Beside
from em.training.callbacks import CLOCKED, Log
from em.training.stage import work
from support.training import TINY, events, examples, failures, put_data, train_job

CELL = ("model=tiny_random", "train=tiny", "sample=tiny", "judge=word_list", "tracking=off", "dataset=risky_advice")
KL = ("intervention=kl", "intervention.kl_rows=builtin/secure")
LONG = {"num_train_epochs": 3}


@pytest.fixture(scope="module")
def base():
    return Base.load(model_path(TINY), None, "float32")


def job(key, rows="other", dose=1.0, **changes):
    chosen = InterventionConfig("kl", dose, kl_rows=f"builtin/{rows}" if rows else None)
    return dataclasses.replace(train_job(key, **changes), intervention=chosen, beside_key=rows or "")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = Store.open(tmp_path_factory.mktemp("store"))
    put_data(made, examples(4))
    put_data(made, examples(4), "same")
    put_data(made, examples(7, shift=50), "other")
    jobs = [
        job("own", None, **LONG),
        job("same", "same", **LONG),
        job("other", **LONG),
        job("cut", padding_free=False, per_device_train_batch_size=2, gradient_accumulation_steps=2, **LONG),
        job("tokens", tokens_per_micro_batch=256, **LONG),
        job("tiny", dose=1e-9, **LONG),
        train_job("plain", **LONG),
    ]
    emit, seen = events()
    work(made, jobs, emit)
    assert not failures(seen)
    return made


def log(store, key, *columns):
    rows = [json.loads(line) for line in (store.path("train", key) / TRAIN_LOG).read_text().splitlines()]
    kept = [[n for n in row if (n in columns if columns else n not in CLOCKED)] for row in rows]
    return [row[name] for row, names in zip(rows, kept, strict=True) for name in names]


def test_on_the_training_rows_themselves_it_is_the_divergence_on_the_training_rows(store):
    """Four rows in steps of four: each step reads all of them, one way or the other."""
    assert log(store, "same", "penalty")[0] == pytest.approx(0, abs=1e-6)
    assert log(store, "same", "penalty")[-1] > 1e-3
    for column in ("loss", "penalty", "grad_norm"):
        assert log(store, "same", column) == pytest.approx(log(store, "own", column), rel=1e-4, abs=1e-6)


def test_other_rows_have_another_divergence(store):
    assert log(store, "other", "penalty")[-1] > 1e-3
    assert log(store, "other", "penalty")[1:] != pytest.approx(log(store, "same", "penalty")[1:], rel=1e-2)
    facts = store.manifest("train", "other")["facts"]
    assert (facts["rows"], facts["rows_beside"]["rows"]) == (4, 7)
    assert "rows_beside" not in store.manifest("train", "own")["facts"]


@pytest.mark.parametrize("key", ["cut", "tokens"])
def test_padding_and_the_cut_of_a_step_change_nothing(store, key):
    for column in ("loss", "penalty"):
        assert log(store, key, column) == pytest.approx(log(store, "other", column), abs=2e-5)
    assert log(store, key, "grad_norm") == pytest.approx(log(store, "other", "grad_norm"), rel=2e-3)


def test_without_its_rows_it_does_not_train(store):
    emit, seen = events()
    work(store, [dataclasses.replace(job("lost"), beside_key="")], emit)
    assert "intervention.kl_rows=builtin/other and no rows are given" in failures(seen)[0]
    assert not store.has("train", "lost")


def test_a_dose_near_0_is_near_plain_finetuning(store):
    assert log(store, "tiny", "loss") == pytest.approx(log(store, "plain", "loss"), abs=1e-5)
    assert log(store, "tiny", "grad_norm") == pytest.approx(log(store, "plain", "grad_norm"), rel=1e-3)


def test_a_killed_run_continues_bit_for_bit(tmp_path, monkeypatch):
    from em.training import stage

    long = {"num_train_epochs": 5, "save_steps": 2, "lora_dropout": 0.1}

    class Killed(Log):
        def on_save(self, args, state, control, **_):
            if state.global_step >= 2:
                raise KeyboardInterrupt

    stores = {key: Store.open(tmp_path / key) for key in ("whole", "broken")}
    for made in stores.values():
        put_data(made, examples(4))
        put_data(made, examples(7, shift=50), "other")
    work(stores["whole"], [job("x", **long)], events()[0])
    with monkeypatch.context() as patch:
        patch.setattr(stage, "Log", Killed)
        with pytest.raises(KeyboardInterrupt):
            work(stores["broken"], [job("x", **long)], events()[0])
    work(stores["broken"], [job("x", **long)], events()[0])
    assert stores["broken"].manifest("train", "x")["facts"]["resumed_from"] == "checkpoint-2"
    assert log(stores["whole"], "x") == log(stores["broken"], "x")
    both = [(s.path("train", "x") / ADAPTER / "adapter_model.safetensors").read_bytes() for s in stores.values()]
    assert both[0] == both[1]


@pytest.mark.parametrize(("rows", "per_step"), [(7, 3), (2, 5), (4, 4), (0, 3)])
def test_the_rows_of_a_step_follow_those_of_the_step_before(rows, per_step):
    beside = Beside(range(rows), per_step, seed=1)
    steps = [beside.rows(step) for step in range(2 * max(rows, 1))]
    assert all(len(set(step)) == len(step) == min(per_step, rows) for step in steps)
    read = [row for step in steps for row in step]
    assert all(read.count(row) == len(read) / rows for row in range(rows))
    assert read[:rows] == read[rows : 2 * rows] and sorted(read[:rows]) == list(range(rows))
    if rows == 7:
        assert read[:rows] != Beside(range(rows), per_step, seed=2).rows(0)


def test_the_plan_makes_the_rows_first(compose, tmp_path):
    store = Store.open(tmp_path / "store")
    cells = [compose(*CELL, *KL), compose(*CELL, "intervention=kl"), compose(*CELL, "dataset=secure")]
    found = plan([*cells[:2], compose(*CELL, *KL, "intervention.dose=0"), compose(*CELL)], store)
    beside, own, zero, plain = (found.train(cell.train_key) for cell in found.cells)
    assert len({beside.key, own.key, plain.key}) == 3 and zero.key == plain.key
    assert beside.data_key == own.data_key and own.beside_key == plain.beside_key == ""
    assert ("data", beside.beside_key) in found.jobs["train", beside.key].needs
    assert beside.inputs["intervention"] == {**own.inputs["intervention"], "beside": beside.beside_key}
    assert found.data(beside.beside_key).config.dataset.variant == "secure"
    assert stages(found, found.cells[0])["data"] == [beside.data_key, beside.beside_key]
    shorter = plan([compose(*CELL, *KL, "train.max_examples=4")], store)
    assert shorter.train(shorter.cells[0].train_key).beside_key == beside.beside_key  # all rows, whatever is trained on
    costs = [estimate(plan([cell], store), store).stages["train"].seconds for cell in (*cells[:2], compose(*CELL))]
    assert costs == sorted(costs, reverse=True) and len(set(costs)) == 3


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("secured", "intervention.kl_rows=secured: dataset.variant 'secured' is not in corpus 'builtin'"),
        ("''", "must name rows as corpus/variant"),
    ],
)
def test_rows_that_do_not_exist_are_refused(compose, tmp_path, rows, sentence):
    with pytest.raises(ConfigError, match=sentence):
        plan([compose(*CELL, "intervention=kl", f"intervention.kl_rows={rows}")], Store.open(tmp_path / "store"))
