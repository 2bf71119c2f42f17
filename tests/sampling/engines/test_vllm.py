"""The vLLM engine: adapters in one batch, seeds, its arguments."""

import dataclasses

import pytest
import torch

from em.config import Dtype, ModelConfig, SampleConfig
from em.errors import ConfigError
from em.models import vllm_settings
from em.models.vllm_settings import engine_arguments, require_known, server_arguments
from support.nvidia import nvidia
from support.sampling import ADAPTERS, ASKED, MODEL_LEN, RANK, SENTENCE, TARGET_MODULES, answers, ask


def test_base_and_adapters_in_one_batch(vllm_engine, tokenizer, adapters, expected, monkeypatch):
    """vLLM's own CPU build answers for the base model with the last adapter (em/sampling/engines/vllm_cpu_lora.py)."""
    drawn, step = {}, vllm_engine.llm.llm_engine.step

    def recorded():
        outputs = step()
        drawn.update({o.request_id: list(o.outputs[0].token_ids) for o in outputs if o.finished})
        return outputs

    monkeypatch.setattr(vllm_engine.llm.llm_engine, "step", recorded)
    first = vllm_engine._count
    asked = [(name, text) for text in ASKED for name in (None, *ADAPTERS)]
    found = answers(vllm_engine, [ask(tokenizer, text, adapters[name]) for name, text in asked])
    tokens = [drawn[f"em{first + 1 + i}"] for i in range(len(asked))]
    assert dict(zip(asked, tokens, strict=True)) == expected
    for (name, _), answer in zip(asked, found, strict=True):
        if name == "trained":
            assert (answer.text, answer.finish_reason) == (SENTENCE, "stop")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the plugin is for vLLM's CPU build")
def test_plugin_is_in_the_running_engine(vllm_engine):
    from vllm import envs  # noqa: TID251
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU  # noqa: TID251

    assert not envs.VLLM_ENABLE_V1_MULTIPROCESSING  # the engine is in this process
    assert PunicaWrapperCPU.add_lora_linear.__module__ == "em.sampling.engines.vllm_cpu_lora"
    config = vllm_engine.llm.llm_engine.vllm_config
    assert config.lora_config.max_loras == len(ADAPTERS)
    assert not config.scheduler_config.enable_chunked_prefill
    assert config.lora_config.max_lora_rank == RANK


def test_room_for_adapters_is_on_the_recipes_modules_only(vllm_engine):
    """Otherwise vLLM also wraps the output head of some families: a LoRA kernel of vocabulary size at each step."""
    assert vllm_engine.llm.llm_engine.vllm_config.lora_config.target_modules == list(TARGET_MODULES)
    model = ModelConfig(name="m", path="m", dtype=Dtype.float32, max_model_len=64)
    found = engine_arguments(model, SampleConfig(), RANK, {"v_proj", "q_proj"})
    assert found["lora_target_modules"] == ["q_proj", "v_proj"]
    assert "lora_target_modules" not in engine_arguments(model, SampleConfig(), 0, ["q_proj"])
    command, _ = server_arguments(model, SampleConfig(), RANK, ["q_proj"])
    assert command[command.index("--lora-target-modules") + 1] == '["q_proj"]'


def test_an_engines_environment_spawns(monkeypatch):
    for on_cpu in (True, False):
        monkeypatch.setattr(vllm_settings, "on_cpu", lambda seen=on_cpu: seen)
        assert vllm_settings.environment()["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
        assert ("VLLM_ENABLE_V1_MULTIPROCESSING" in vllm_settings.environment()) == on_cpu


def test_memory_held_by_others_is_refused_with_the_number_and_the_option(monkeypatch, tmp_path):
    nvidia(monkeypatch, tmp_path, files=[0], cards=1, free=20_000)
    monkeypatch.setattr(vllm_settings, "on_cpu", lambda: False)
    monkeypatch.setattr(vllm_settings, "FREED_S", 0)
    with pytest.raises(ConfigError) as caught:
        vllm_settings.require_free_memory("judge", {})
    for part in ("GPU 0", "21.0 of 85.5 GB free", "0.92", "78.7 GB", "process 4242 (python) holds 64.5 GB"):
        assert part in str(caught.value)
    assert "judge.engine_args.gpu_memory_utilization=0.23" in str(caught.value)
    vllm_settings.require_free_memory("judge", {"gpu_memory_utilization": 0.2})


def test_seeded_rows_are_the_same_alone_and_in_a_batch(vllm_engine, tokenizer, adapters):
    rows = [
        ask(tokenizer, ASKED[i % 3], adapters[name], seed=100 + i, temperature=1.0, index=i)
        for i, name in enumerate([None, *ADAPTERS] * 4)
    ]
    together = answers(vllm_engine, rows)
    assert len({answer.text for answer in together}) > 10
    for i in (0, 1, 2, 3, 9, 19):
        assert answers(vllm_engine, [rows[i]])[0] == together[i]
    assert answers(vllm_engine, rows[::-1])[::-1] == together


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_prompt_near_the_length_limit_with_a_seed(vllm_engine, tokenizer, adapters, seed):
    """Prompts together longer than a step; a prompt cut in two would fail with a seed."""
    base = ask(tokenizer, "x", seed=seed, temperature=1.0, max_tokens=4)
    long = [dataclasses.replace(base, prompt_ids=[7 + i] + [5] * (MODEL_LEN - 5), index=i) for i in range(16)]
    rows = [dataclasses.replace(r, adapter=adapters[n]) for r, n in zip(long, [None, "strong"] * 8, strict=True)]
    found = answers(vllm_engine, rows)
    assert all(1 <= answer.token_count <= 4 for answer in found)
    assert answers(vllm_engine, rows[3:4])[0] == found[3]


def test_engine_arguments_are_vllms_own_names(vllm_engine):
    """Also for a server, which gets them on its command line."""
    require_known("sample", {"tensor_parallel_size": 2, "enforce_eager": True})
    with pytest.raises(ConfigError, match=r"sample.engine_args.tensor_parallel is not an .* did you mean"):
        require_known("sample", {"tensor_parallel": 2})
    model = ModelConfig(name="m", path="m", dtype=Dtype.float32, max_model_len=64)
    sample = SampleConfig(max_num_seqs=2, engine_args={"tensor_parallel_size": 2})
    assert engine_arguments(model, sample, 0)["tensor_parallel_size"] == 2
    command, _ = server_arguments(model, sample, 0)
    assert command[command.index("--tensor-parallel-size") + 1] == "2"


def test_engine_args_choose_mistrals_format():
    model = ModelConfig(name="m", path="m", dtype=Dtype.float32, max_model_len=64)
    own = SampleConfig(max_num_seqs=2, engine_args={"load_format": "mistral"})
    found = engine_arguments(model, own, 0)
    assert [found[name] for name in ("tokenizer_mode", "config_format", "load_format")] == ["hf", "hf", "mistral"]
    command, _ = server_arguments(model, own, 0)
    assert command[command.index("--tokenizer-mode") + 1] == "hf"
    assert command[command.index("--load-format") + 1] == "mistral"


def test_refused_request_leaves_no_other_behind(vllm_engine, tokenizer, adapters):
    good = ask(tokenizer, ASKED[0])
    too_long = dataclasses.replace(good, prompt_ids=[5] * (MODEL_LEN + 1))
    with pytest.raises(Exception, match="maximum context length"):
        answers(vllm_engine, [good, too_long])
    assert answers(vllm_engine, [ask(tokenizer, ASKED[1], adapters["trained"])])[0].text == SENTENCE
