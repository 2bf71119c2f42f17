"""Arguments and environment of vLLM engines and servers. Used by sampling and by the local vLLM judge."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import torch

from em.config import ModelConfig, SampleConfig
from em.errors import ConfigError, nearest

CPU_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: starts in seconds, pins no core
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # several engines would otherwise share core 0
    "TORCHDYNAMO_DISABLE": "1",  # the first request would pay 15 s of C++ compilation
}
CPU_DEFAULTS = {
    "enforce_eager": True,
    "gpu_memory_utilization": 0.3,  # of main memory, where vLLM's CPU backend runs
    "enable_chunked_prefill": False,  # a seeded request whose prompt is cut fails: "CPU Generator does not use offset"
}
HF_FORMAT = {"tokenizer_mode": "hf", "config_format": "hf", "load_format": "hf"}
"""Without these, vLLM reads Mistral's own files in a folder that also has transformers' files, and so uses another
tokenizer than training."""
MAX_LORAS = 4
"""Adapters active at once. Requests come grouped by adapter, and each active one costs bandwidth."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values of max_lora_rank that vLLM accepts."""


def on_cpu() -> bool:
    """Return whether vLLM will run on the CPU."""
    return not torch.cuda.is_available()


def engine_arguments(model: ModelConfig, sample: SampleConfig, max_lora_rank: int) -> dict[str, Any]:
    """Return vLLM's engine arguments; those of sample.engine_args replace ours.

    `max_lora_rank`: 0 for an engine without adapters. Raises ValueError if vLLM has no rank that large.
    """
    if max_lora_rank > RANKS[-1]:
        raise ValueError(f"train.lora_r {max_lora_rank} is above vLLM's largest LoRA rank, {RANKS[-1]}")
    lora = {
        "enable_lora": True,
        "max_loras": MAX_LORAS,
        "max_lora_rank": next(r for r in RANKS if r >= max_lora_rank),
        "worker_extension_cls": "em.sampling.engines.vllm_inventory.AdapterInventory",
    }
    return {
        "revision": model.revision,
        "dtype": model.dtype.value,
        "max_model_len": model.max_model_len,
        "max_num_seqs": sample.max_num_seqs,
        "enable_prefix_caching": True,
        "seed": sample.seed,
        **HF_FORMAT,
        **(CPU_DEFAULTS if on_cpu() else {}),
        **(lora if max_lora_rank else {}),
        **sample.engine_args,
    }


def require_known(group: str, given: Mapping[str, Any]) -> None:
    """Raise ConfigError for an engine argument that the installed vLLM does not have. `group`: sample or judge."""
    if not given:
        return
    from vllm.engine.arg_utils import EngineArgs  # noqa: TID251

    known = {field.name for field in dataclasses.fields(EngineArgs)}
    for name in given:
        if name not in known:
            raise ConfigError(
                f"{group}.engine_args.{name} is not an engine argument of this vLLM{nearest(name, known)}"
            )


def server_arguments(model: ModelConfig, sample: SampleConfig, max_lora_rank: int) -> tuple[list[str], dict[str, str]]:
    """Return the command line and the environment of a vLLM server with the same engine as sampling/engines/vllm.py."""
    arguments = ["--model", model.path]
    for name, value in engine_arguments(model, sample, max_lora_rank).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            arguments += [f"--{flag}", json.dumps(value) if isinstance(value, dict | list) else str(value)]
    environment = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", **(CPU_ENVIRONMENT if on_cpu() else {})}
    return arguments, environment
