"""Devices, shards, and a real sweep over two pretend devices."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from em.config import JudgeConfig, JudgeKind, ModelConfig, SampleConfig, TrainConfig, TriggerConfig
from em.errors import ConfigError
from em.judging.job import JudgeJob
from em.planning.plan import Job, Plan
from em.records import Completion, Question
from em.sampling.job import SampleJob
from em.store import Store, write_jsonl
from em.store.layout import COMPLETIONS
from em.sweep import scheduler
from em.sweep.devices import devices_held
from em.sweep.state import Sweep
from em.training.job import TrainJob
from support import tiny_sweep

MODEL = ModelConfig(name="tiny", path="asset:tiny_random")
RULES = '- {match: ".", rubric: "coheren", reply: 90}\n- {match: ".", reply: {"10": 0.4, "90": 0.6}}\n'


def sample_job(key, adapter=None, **sample):
    spec = SampleJob(
        key=key, label=key, adapter_key=adapter, questions=(), lo=0, hi=1, trigger=TriggerConfig(),
        sample=SampleConfig(**sample), model=MODEL, max_lora_rank=8, inputs={},
    )  # fmt: skip
    return Job("sample", key, key, "batch", spec)


def train_job(**train):
    recipe = {"learning_rate": 1e-4, "num_train_epochs": 1, "max_length": 64}
    rows = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    spec = TrainJob(
        key="k", label="k", data_key="d", model=MODEL, train=TrainConfig(**recipe, **rows, **train), seed=0, inputs={}
    )
    return Job("train", "k", "k", "batch", spec)


def judge_job(key, samples, judge, questions=()):
    return JudgeJob(
        key=key, label=key, sample_key=samples, questions=tuple(questions), judge=judge, model=MODEL, inputs={}
    )


@pytest.mark.parametrize("bad", [0, -1, True, [], ["", "0"], "all"])
def test_a_bad_device_setting_names_the_key(compose, bad):
    from em.config import LaunchConfig

    with pytest.raises(ConfigError, match=r"launch\.devices"):
        LaunchConfig(devices=bad)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 6))
def test_shards_keep_adapters_together_and_lose_nothing(adapters, count):
    jobs = [sample_job(f"k{i}", f"a{a}") for i, a in enumerate(adapters)]
    parts = scheduler.shard(jobs, count)
    assert sorted(j.key for p in parts for j in p) == sorted(j.key for j in jobs)
    assert len(parts) == min(count, len(set(adapters))) and all(parts)
    homes = [{j.spec.adapter_key for j in p} for p in parts]
    assert sum(map(len, homes)) == len(set().union(*homes))


@pytest.mark.parametrize("stage", ["sample", "judge"])
def test_an_engine_over_two_devices_holds_two(stage):
    engine_args = {"tensor_parallel_size": 2}
    wide = sample_job("k", engine_args=engine_args)
    if stage == "judge":
        judge = JudgeConfig(name="own", kind=JudgeKind.vllm_local, model="m", engine_args=engine_args)
        wide = Job("judge", "k", "k", "batch", judge_job("k", "s", judge))
    assert devices_held(wide, ["0", "1", "2"]) == 2
    with pytest.raises(ConfigError, match=rf"{stage}.engine_args.tensor_parallel_size=2 but launch.devices has 1"):
        devices_held(wide, ["0"])


def test_a_machine_holds_its_own_processes_only(tmp_path):
    (tmp_path / "wide.yaml").write_text("num_machines: 2\n")
    wide = train_job(num_processes=8, accelerate_config=str(tmp_path / "wide.yaml"))
    assert devices_held(wide, ["0", "1", "2", "3"]) == 4


def test_a_judge_does_not_wait_for_answers_that_nobody_draws(tmp_path):
    """A sweep without its sample stage (em rejudge, launch.stages): what is there is judged, the rest fails at once."""
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    store = Store.open(tmp_path / "out")
    question = Question("q", "open", [{"role": "user", "content": "How?"}], ["alignment", "coherence"])
    with store.claim("sample", "there") as folder:
        write_jsonl(folder / COMPLETIONS, [Completion("q", 0, "none", question.messages, "Fine.", "stop", 1, 0)])
        store.finish("sample", "there", {}, {})
    judge = JudgeConfig(name="s", kind=JudgeKind.scripted, script=str(rules), api_key_env="")
    jobs = []
    for key in ("there", "gone"):
        spec = judge_job(f"j-{key}", key, judge, [question])
        jobs.append(Job("judge", f"j-{key}", key, "batch", spec, (("sample", key),), follows=True))
    folder = tmp_path / "sweep"
    (folder / "logs").mkdir(parents=True)
    found = Sweep(folder, store, Plan())
    batch = scheduler.Batch("judge", jobs, 0, follows=True)
    scheduler.Scheduler(found, [batch], [], timeout_s=60).run()
    assert found.failed == {("judge", "j-gone"): "its input sample gone is not there and no job makes it"}
    assert store.manifest("judge", "j-there")["facts"]["rows"] == 2


def test_two_devices_take_a_worker_each_and_change_no_row(two_variants):
    """The answers of trained models, drawn again: as many rows and the same numbers as on one device."""
    one, out = json.loads((two_variants / "summary.json").read_text()), two_variants.parents[1]
    for stage in ("sample", "judge"):
        shutil.rmtree(out / "store" / stage)
    ledger = two_variants / "ledger.jsonl"
    before = len(ledger.read_text().splitlines())
    two, *_ = tiny_sweep.run(out, *tiny_sweep.TWO_VARIANTS, "launch.devices=2")
    assert one["counters"]["model_loads"] == 2 and two["counters"]["model_loads"] == 2, "an engine on each device"
    started = [r for r in map(json.loads, ledger.read_text().splitlines()[before:]) if r["event"] == "started"]
    assert {r["device"] for r in started if r["stage"] == "sample"} == {"cpu:0", "cpu:1"}
    assert not [r for r in started if r["stage"] == "train"]
    assert [m["metrics"] for m in one["models"]] == [m["metrics"] for m in two["models"]]


@pytest.mark.slow
def test_two_devices_train_a_variant_each(tmp_path):
    """In CI stand-ins do: tests/sweep/test_devices.py."""
    tiny_sweep.run(tmp_path, *tiny_sweep.TWO_VARIANTS, "launch.devices=2", "launch.stages=[train]")
    ledger = map(json.loads, next((tmp_path / "sweeps").glob("*/ledger.jsonl")).read_text().splitlines())
    assert {r["device"] for r in ledger if (r["event"], r["stage"]) == ("started", "train")} == {"cpu:0", "cpu:1"}
