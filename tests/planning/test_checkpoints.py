"""Which steps are kept, and when a schedule makes another run."""

import dataclasses

import pytest

from em.config import TrainConfig
from em.config.train import HOW_ONLY, Method
from em.errors import ConfigError
from em.planning import checkpoints
from em.planning.plan import plan
from em.store import Store, layout

TINY = ("model=tiny_random", "train=tiny", "sample=tiny")


@pytest.mark.parametrize(
    ("entries", "total", "expected"),
    [
        ([], 100, []),
        (["every 10"], 35, [10, 20, 30]),
        (["every 10"], 30, [10, 20]),  # the last step is the finished run
        (["log"], 337, [1, 2, 4, 8, 16, 32, 64, 128, 256]),
        (["log"], 256, [1, 2, 4, 8, 16, 32, 64, 128]),
        (["7", "3", "7"], 10, [3, 7]),
        (["10"], 10, []),
        (["1", "2", "3", "every 5", "log"], 12, [1, 2, 3, 4, 5, 8, 10]),
        (["every 10"], 5, []),
    ],
)
def test_scheduled(entries, total, expected):
    assert checkpoints.scheduled(entries, total) == expected


def test_a_step_past_the_end_is_refused():
    with pytest.raises(ConfigError, match="step 11, the run has 10"):
        checkpoints.scheduled(["11"], 10)


@pytest.mark.parametrize("entry", ["0", "-3", "every", "every 0", "often", "1.5", "every 10 "])
def test_entries_that_are_no_schedule_are_refused(entry):
    with pytest.raises(ConfigError, match="checkpoints has"):
        TrainConfig(None, 1e-5, 1, 2, 8, 2048, checkpoints=[entry])


def test_planned_counts_the_rows(compose):
    config = compose(*TINY, "train.max_examples=14", "train.num_train_epochs=2", "train.checkpoints=[every 3,1]")
    assert checkpoints.optimiser_steps(config.train, 14) == 8  # 4 steps of 4, 4, 4, 2 rows; twice
    assert checkpoints.planned(config) == [1, 3, 6]


def test_rows_a_step_is_the_product(compose):
    config = compose(*TINY, "train.per_device_train_batch_size=2", "train.gradient_accumulation_steps=8")
    assert checkpoints.optimiser_steps(config.train, 6000) == 375
    assert checkpoints.optimiser_steps(dataclasses.replace(config.train, num_train_epochs=0.5), 5400) == 169


def train_job(config, store):
    return next(iter(plan([config], store).stage("train")))


def finish(store, job):
    store.partial("train", job.key).mkdir(parents=True)
    store.finish("train", job.key, job.spec.inputs, {"checkpoints": list(job.spec.checkpoints)})


def test_a_schedule_makes_another_run_only_where_steps_are_missing(compose, tmp_path):
    store = Store.open(tmp_path)
    plain = compose(*TINY)
    some = compose(*TINY, "train.checkpoints=[every 1]")
    fewer = compose(*TINY, "train.checkpoints=[2]")
    assert train_job(plain, store).key == train_job(some, store).key == train_job(fewer, store).key
    finish(store, train_job(fewer, store))
    first = train_job(plain, store).key
    assert train_job(fewer, store).key == first
    again = train_job(some, store)
    assert again.key != first and again.spec.inputs["checkpoints"] == list(again.spec.checkpoints) == [1, 2, 3]
    finish(store, again)
    assert train_job(some, store).key == again.key
    assert train_job(fewer, store).key == train_job(plain, store).key == first


def test_cells_that_differ_in_the_schedule_alone_are_one_run(compose, tmp_path):
    store = Store.open(tmp_path)
    both = [compose(*TINY, f"train.checkpoints=[{entry}]") for entry in ("1", "3")]
    jobs = plan(both, store).stage("train")
    assert [job.spec.checkpoints for job in jobs] == [(1, 3)]


def test_how_a_run_is_computed_is_not_in_its_key(compose, tmp_path):
    store = Store.open(tmp_path)
    changes = {
        "save_steps": 7,
        "checkpoints": "[1]",
        "padding_free": "false",
        "tokens_per_micro_batch": 256,
        "gradient_checkpointing": "true",
        "attn_implementation": "eager",
        "deterministic": "true",
        "num_processes": 2,
    }
    assert set(changes) == set(HOW_ONLY) - {"accelerate_config"}
    key = train_job(compose(*TINY), store).key
    for name, value in changes.items():
        assert train_job(compose(*TINY, f"train.{name}={value}"), store).key == key
    for change in ("learning_rate=0.5", "method=full", "lora_r=4", "optim=adamw_torch"):
        assert train_job(compose(*TINY, f"train.{change}"), store).key != key


def test_full_finetuning_does_not_depend_on_lora_s_fields(compose, tmp_path):
    store = Store.open(tmp_path)
    keys = {train_job(compose(*TINY, "train.method=full", f"train.lora_r={r}"), store).key for r in (4, 8)}
    assert len(keys) == 1


def test_where_the_weights_are(tmp_path):
    store = Store.open(tmp_path)
    folder = store.path("train", "k")
    assert layout.weights(store, "k", Method.lora) == folder / "adapter"
    assert layout.weights(store, "k", Method.qlora) == folder / "adapter"
    assert layout.weights(store, "k", Method.full) == folder / "model"
    assert layout.weights(store, "k", Method.full, 10) == folder / "checkpoints" / "10"
