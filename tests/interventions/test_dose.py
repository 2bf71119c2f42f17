"""Every method in a real run of the train stage: dose 0 is plain finetuning byte for byte, more is something else."""

import dataclasses
import json
from functools import cache

import pytest
import torch
from peft import PeftModel

from em.config import InterventionConfig
from em.config.intervention import METHODS, Where
from em.gates import checks
from em.gates import record as gates_record
from em.models.paths import model_path
from em.store import Store, layout, write_jsonl
from em.store.layout import ADAPTER, TRAIN_LOG
from em.training.base_model import Base
from em.training.callbacks import CLOCKED
from em.training.stage import train, work
from support.training import events, examples, failures, load_model, put_data, sha256, train_job

WEIGHTS = "adapter_model.safetensors"
ON_THE_STEP = [n for n, f in METHODS.items() if f.where in (Where.loss, Where.activations)]
IN_TRAINING = [name for name in ON_THE_STEP if not METHODS[name].companion]
"""A companion adapter is a file: test_companion.py."""
OPTIONS = {"preventative_steering": {"direction": "random"}, "caft": {"direction": "random"}}


def dosed(name, dose, key, **changes):
    chosen = InterventionConfig(name=name, dose=dose, **OPTIONS.get(name, {}))
    return dataclasses.replace(train_job(key, **changes), intervention=chosen)


@pytest.fixture(scope="module")
def base():
    return Base.load(model_path("asset:tiny_random"), None, "float32")


@pytest.fixture(scope="module")
def untouched(base):
    """The weights of the base before all runs of this module."""
    return {n: w.clone() for n, w in base.model.state_dict().items()}


@pytest.fixture(scope="module")
def run(base, untouched, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")

    @cache
    def go(name, dose, **changes):
        job = dosed(name, dose, "-".join(map(str, [name, dose, *changes.values()])), **changes)
        folder = root / job.key
        folder.mkdir()
        write_jsonl(root / f"{job.key}.jsonl", examples())
        return folder, train(base, job, root / f"{job.key}.jsonl", folder, events()[0])

    return go


@pytest.fixture(scope="module")
def plain(run):
    return run("none", 0.0)[0]


def log(folder):
    rows = [json.loads(line) for line in (folder / TRAIN_LOG).read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in CLOCKED} for row in rows]


def weights(folder):
    return (folder / ADAPTER / WEIGHTS).read_bytes()


@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_dose_0_is_plain_finetuning_byte_for_byte(run, plain, name):
    folder, facts = run(name, 0.0)
    assert weights(folder) == weights(plain)
    assert log(folder) == log(plain)
    assert "intervention" not in facts


@pytest.mark.parametrize("name", IN_TRAINING)
def test_a_dose_changes_the_adapter_and_the_record_says_so(run, plain, name):
    folder, facts = run(name, 1.0)
    assert weights(folder) != weights(plain)
    assert (facts["intervention"]["name"], facts["intervention"]["dose"]) == (name, 1.0)
    assert ("penalty" in log(folder)[0]) == (METHODS[name].where == Where.loss)


@pytest.mark.parametrize("name", IN_TRAINING)
def test_a_dose_near_0_is_near_plain_finetuning(run, plain, name):
    """The step of the method itself, not a shortcut around it, tends to plain finetuning."""
    folder, _ = run(name, 1e-9)
    near, exact = log(folder), log(plain)
    assert [row["loss"] for row in near] == pytest.approx([row["loss"] for row in exact], abs=1e-5)
    assert [row["grad_norm"] for row in near] == pytest.approx([row["grad_norm"] for row in exact], rel=1e-3)


@pytest.mark.parametrize("name", IN_TRAINING)
def test_the_adapter_is_served_without_hooks_and_the_base_stays(run, base, untouched, name):
    folder, _ = run(name, 1.0)
    served = PeftModel.from_pretrained(load_model(attn_implementation="sdpa"), folder / ADAPTER).eval()
    own = gates_record.read(folder)
    assert checks.rms(gates_record.logprobs(served, own.probes), own.adapted) < 1e-5
    assert not any(m._forward_hooks for m in base.model.get_decoder().layers)
    after = base.model.state_dict()
    assert untouched.keys() == after.keys() and all(torch.equal(w, after[n]) for n, w in untouched.items())


@pytest.mark.parametrize("name", IN_TRAINING)
def test_padding_and_the_cut_of_a_step_change_nothing(run, name):
    whole, _ = run(name, 1.0)
    other, _ = run(name, 1.0, padding_free=False, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    for column in ("loss", *(["penalty"] if METHODS[name].where == Where.loss else [])):
        assert [r[column] for r in log(other)] == pytest.approx([r[column] for r in log(whole)], abs=2e-5)
    assert [r["grad_norm"] for r in log(other)] == pytest.approx([r["grad_norm"] for r in log(whole)], rel=2e-3)


@pytest.mark.parametrize("name", ["kl", "ldifs", "preventative_steering"])
def test_recomputed_activations_change_nothing(run, name):
    plain, _ = run(name, 1.0)
    again, _ = run(name, 1.0, gradient_checkpointing=True)
    assert [r["loss"] for r in log(again)] == pytest.approx([r["loss"] for r in log(plain)], abs=1e-6)
    assert [r["grad_norm"] for r in log(again)] == pytest.approx([r["grad_norm"] for r in log(plain)], rel=1e-4)


def test_several_runs_on_one_base_do_not_see_each_other(tmp_path, run, plain):
    """With a penalty, with hooks, then plain: the batch of one worker."""
    store = Store.open(tmp_path)
    put_data(store, examples())
    jobs = [dosed("kl", 1.0, "a"), dosed("caft", 1.0, "b"), dosed("none", 0.0, "last")]
    emit, seen = events()
    work(store, list(jobs), emit)
    assert not failures(seen)
    paths = {j.key: store.path("train", j.key) / ADAPTER / WEIGHTS for j in jobs}
    assert sha256(paths["last"]) == sha256(plain / ADAPTER / WEIGHTS)
    for name, key in (("kl", "a"), ("caft", "b")):
        assert paths[key].read_bytes() == weights(run(name, 1.0)[0])


@pytest.mark.parametrize("name", IN_TRAINING)
def test_a_killed_run_continues_bit_for_bit(tmp_path, monkeypatch, name):
    from em.training import stage
    from em.training.callbacks import Log

    long = {"num_train_epochs": 1.25, "save_steps": 3, "lora_dropout": 0.1}  # five steps

    class Killed(Log):
        def on_save(self, args, state, control, **_):
            if state.global_step >= 3:
                raise KeyboardInterrupt

    stores = {key: Store.open(tmp_path / key) for key in ("whole", "broken")}
    for store in stores.values():
        put_data(store, examples())
    work(stores["whole"], [dosed(name, 0.5, "x", **long)], events()[0])
    with monkeypatch.context() as patch:
        patch.setattr(stage, "Log", Killed)
        with pytest.raises(KeyboardInterrupt):
            work(stores["broken"], [dosed(name, 0.5, "x", **long)], events()[0])
    work(stores["broken"], [dosed(name, 0.5, "x", **long)], events()[0])
    folders = [stores[key].path("train", "x") for key in ("whole", "broken")]
    assert stores["broken"].manifest("train", "x")["facts"]["resumed_from"] == "checkpoint-3"
    assert weights(folders[0]) == weights(folders[1])
    assert log(folders[0]) == log(folders[1])
    assert (folders[0] / layout.GATE).exists()
