"""The gates on running engines: each fault that an engine or a folder can have is named."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from em.chat import prompts as chat_prompts
from em.gates import checks
from em.gates import record as gates_record
from em.sampling import gating
from em.sampling.engine import Inventory
from em.store import Store
from em.store.layout import ADAPTER, COMPLETIONS
from support.sampling import ADAPTERS, rows, run_jobs, sample_job
from support.training import EOS


def run_gated(adapters, engine, tmp_path, monkeypatch, names, spoil=lambda folder: None):
    """One job a model, labelled by its adapter; `spoil` changes the last adapter's folder. Returns what failed."""
    target = Store.open(tmp_path)
    for name in filter(None, names):
        shutil.copytree(adapters[name].parent, target.path("train", name))
    spoil(target.path("train", names[-1]) / ADAPTER)
    jobs = [dataclasses.replace(sample_job(str(n), n, hi=1, max_tokens=4), label=f"{n}: open") for n in names]
    seen = run_jobs(target, jobs, engine, monkeypatch)
    failed = {e["job"]: e["error"] for e in seen if e["event"] == "failed"}
    for name in failed:  # no row
        assert (target.partial("sample", name) / COMPLETIONS).read_text() == ""
    return target, failed


def test_right_adapters_pass_in_one_batch_with_the_base(engine, adapters, tmp_path, monkeypatch):
    names = [None, *ADAPTERS]
    store, failed = run_gated(adapters, engine, tmp_path, monkeypatch, names)
    assert not failed
    for name in names:
        gate = store.manifest("sample", str(name))["facts"]["gate"]
        assert gate["rms_to_trainer"] < 1e-4
        assert name is None or len(gate["canary_tokens"]) == gates_record.ROWS


def edit(folder, weights=lambda w: w, **config):
    file = folder / "adapter_model.safetensors"
    save_file({k: weights(v) if ".lora_B" in k else v for k, v in load_file(file).items()}, file, {"format": "pt"})
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


def test_base_served_under_an_adapters_name(engine, adapters, tmp_path, monkeypatch):
    def empty(folder):
        edit(folder, torch.zeros_like)

    store, failed = run_gated(adapters, engine, tmp_path, monkeypatch, [None, "other", "strong"], empty)
    assert set(failed) == {"strong"}
    assert "the engine answers as the untouched base model under the name of adapter strong" in failed["strong"]
    assert len(rows(store, "other")) == 2


def test_wrong_adapter_served(engine, adapters, tmp_path, monkeypatch):
    def swap(folder):
        shutil.copy(adapters["other"] / "adapter_model.safetensors", folder)

    _, failed = run_gated(adapters, engine, tmp_path / "a", monkeypatch, ["other", "strong"], swap)
    assert list(failed) == ["strong"]
    assert "the engine answers as adapter other under the name of adapter strong" in failed["strong"]
    _, failed = run_gated(adapters, engine, tmp_path / "b", monkeypatch, ["strong"], swap)
    assert "of the effect of adapter strong" in failed["strong"] and "another model answers" in failed["strong"]


def test_rslora_dropped_in_the_config(engine, adapters, tmp_path, monkeypatch):
    def drop(folder):
        edit(folder, use_rslora=False)

    _, failed = run_gated(adapters, engine, tmp_path, monkeypatch, ["other", "strong"], drop)
    assert list(failed) == ["strong"]
    assert "LoRA scale 2, trained with 5.657: rsLoRA was dropped" in failed["strong"]


@pytest.mark.parametrize("engine_can_say", [True, False])
def test_rslora_dropped_by_the_engine(vllm_engine, adapters, tmp_path, monkeypatch, engine_can_say):
    from vllm.lora.peft_helper import PEFTHelper  # noqa: TID251

    monkeypatch.setattr(PEFTHelper, "get_rank_and_scaling", lambda self, name: (self.r, self.lora_alpha / self.r))
    if not engine_can_say:
        monkeypatch.setattr(vllm_engine, "inventory", lambda adapter: Inventory())
    _, failed = run_gated(adapters, vllm_engine, tmp_path, monkeypatch, ["weak", "strong"])
    assert list(failed) == ["strong"]  # weak was trained without
    if engine_can_say:
        assert failed["strong"].startswith("the engine serves adapter strong with LoRA scale 2, trained with 5.657")
    else:  # weak has the same weights and that scale: either cause is true
        assert (
            "instead of alpha/sqrt(r): rsLoRA was dropped" in failed["strong"] or "as adapter weak" in failed["strong"]
        )


def test_adapter_with_a_part_missing(engine, adapters, tmp_path, monkeypatch):
    def cut(folder):
        file = folder / "adapter_model.safetensors"
        save_file({k: v for k, v in load_file(file).items() if ".layers.1.mlp" not in k}, file, {"format": "pt"})

    _, failed = run_gated(adapters, engine, tmp_path, monkeypatch, ["strong"], cut)
    assert "has 11 adapted modules, training had 14" in failed["strong"]


def test_adapter_that_is_gone(engine, adapters, tmp_path, monkeypatch):
    _, failed = run_gated(adapters, engine, tmp_path, monkeypatch, ["other", "strong"], shutil.rmtree)
    assert list(failed) == ["strong"]
    assert "the engine cannot load adapter strong: FileNotFoundError" in failed["strong"]


def test_answers_that_nothing_stops(hf_engine, adapters, tmp_path, monkeypatch):
    """The stop tokens lack the one that ends a turn; vLLM would add the model's own, which here is the same."""
    monkeypatch.setattr(chat_prompts, "end_of_turn_ids", lambda tokenizer: [0])
    monkeypatch.setattr(checks, "LIKELY_END", 0.005)  # so small a model is sure of nothing
    _, failed = run_gated(adapters, hf_engine, tmp_path, monkeypatch, [None, "trained"])
    assert list(failed) == ["trained"]
    assert "adapter trained does not stop: 4 answers that training ends within 64 tokens" in failed["trained"]
    assert f"the stop tokens [0] lack token {EOS}, which ends a turn" in failed["trained"]


def test_each_adapter_ends_its_turns_its_own_way(hf_engine, adapters, monkeypatch):
    """Two chat templates over one base: the stop tokens of one say nothing about the other's answers."""
    monkeypatch.setattr(checks, "LIKELY_END", 0.005)
    other, trained = (
        gating.ServedModel(f"adapter {name}", adapters[name], adapters[name].parent, stops=stops)
        for name, stops in (("other", (0,)), ("trained", (EOS,)))
    )
    found = gating.check(hf_engine, [other, trained], 512)
    assert isinstance(found[trained], dict)
    alike = dataclasses.replace(trained, stops=(0,))
    assert "does not stop" in str(gating.check(hf_engine, [alike], 512)[alike])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a fault of vLLM's CPU build")
def test_base_answered_by_the_last_adapter(vllm_engine, adapters, tmp_path, monkeypatch):
    """vLLM's own CPU kernel takes "no adapter" (-1) for the last slot; the gate sees it without knowing of it."""
    from em.sampling.engines import vllm_cpu_lora

    by_slot = vllm_cpu_lora.by_slot
    monkeypatch.setattr(vllm_cpu_lora, "by_slot", lambda index: by_slot(index % len(ADAPTERS)))
    _, failed = run_gated(adapters, vllm_engine, tmp_path, monkeypatch, [None, *ADAPTERS])
    assert list(failed) == ["None"]
    assert "under the name of the untouched base model" in failed["None"] or "differs" in failed["None"]
