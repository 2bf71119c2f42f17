"""Arguments and environment of vLLM engines and servers. Used by sampling and by the local vLLM judge."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from em.config import ModelConfig, SampleConfig
from em.errors import ConfigError, nearest
from em.models import paths
from em.runtime import cuda, machine

SPAWN = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
"""vLLM forks its engine process by default. em asks torch for the GPU first, and a process forked after that cannot use
CUDA. A fork would also hold the worker's pipe of events open, and skip our plugin (engines/vllm_cpu_lora.py)."""
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
NO_IMAGES = {"limit_mm_per_prompt": {"image": 0}}
"""Without it, vLLM sets memory aside for the largest image and loads the vision tower, which nothing here asks for."""
EXTENSION = {"worker_extension_cls": "em.sampling.engines.vllm_worker.WorkerExtension"}
MAX_LORAS = 4
"""Adapters active at once. Requests come grouped by adapter, and each active one costs bandwidth."""
GPU_SHARE = 0.92
"""vLLM's default gpu_memory_utilization (0.32)."""
FREED_S = 20
"""Longest wait, in seconds, for the memory of a process that has just ended: the driver frees it a little later."""
GB = 1e9
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values of max_lora_rank that vLLM accepts."""


def on_cpu() -> bool:
    """Return whether vLLM will run on the CPU."""
    return not cuda.uses_gpu()


def environment() -> dict[str, str]:
    """Return the environment variables of an engine, which must be set before vLLM is imported."""
    return {**SPAWN, **(CPU_ENVIRONMENT if on_cpu() else {})}


def prepare_environment() -> None:
    """Set the variables of `environment` that are not set yet."""
    for name, value in environment().items():
        os.environ.setdefault(name, value)


def engine_arguments(
    model: ModelConfig,
    sample: SampleConfig,
    max_lora_rank: int,
    target_modules: Sequence[str] = (),
    *,
    steered: bool = False,
) -> dict[str, Any]:
    """Return vLLM's engine arguments; those of sample.engine_args replace ours.

    `max_lora_rank`: 0 for an engine without adapters. `target_modules`: names of the modules that any adapter adapts;
    empty: vLLM makes room for adapters on every module, also on the output head and the embeddings. `steered`: a bias
    will be set while the engine runs, so nothing that was compiled or captured without it may run. Raises ValueError
    if vLLM has no rank that large.
    """
    if max_lora_rank > RANKS[-1]:
        raise ValueError(f"train.lora_r {max_lora_rank} is above vLLM's largest LoRA rank, {RANKS[-1]}")
    lora = {
        "enable_lora": True,
        "max_loras": MAX_LORAS,
        "max_lora_rank": next(r for r in RANKS if r >= max_lora_rank),
        **EXTENSION,
        **({"lora_target_modules": sorted(target_modules)} if target_modules else {}),
    }
    return {
        "revision": model.revision,
        "dtype": model.dtype.value,
        "max_model_len": model.max_model_len,
        "max_num_seqs": sample.max_num_seqs,
        "enable_prefix_caching": True,
        "seed": sample.seed,
        **HF_FORMAT,
        **no_images(model.path),
        **(CPU_DEFAULTS if on_cpu() else {}),
        **(lora if max_lora_rank else {}),
        **({**EXTENSION, "enforce_eager": True} if steered else {}),
        **sample.engine_args,
    }


def no_images(path: str) -> dict[str, Any]:
    """Return the arguments that keep vLLM from loading the part of a model on this machine that reads images."""
    folder = paths.local_folder(path)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder else {}
    return NO_IMAGES if "vision_config" in config else {}


def require_free_memory(group: str, engine_args: Mapping[str, Any]) -> None:
    """Raise ConfigError if another process holds memory of the GPU that vLLM will ask for. `group`: sample or judge.

    vLLM would fail too, but in another process, and without saying who holds the memory.
    """
    if on_cpu():
        return
    share = float(engine_args.get("gpu_memory_utilization", GPU_SHARE))
    until = time.monotonic() + FREED_S
    while wrong := [gpu for gpu in machine.visible() if gpu.memory and (gpu.free or 0) < share * gpu.memory]:
        if wrong[0].free is None:  # unknown: a slice, or no nvidia-smi
            return
        if time.monotonic() > until:
            raise ConfigError(describe_taken(group, share, wrong[0], machine.holders(wrong[0])))
        time.sleep(1)


def describe_taken(group: str, share: float, gpu: machine.Gpu, holders: Sequence[tuple[str, str, int]]) -> str:
    """Return the message about a GPU whose memory others hold. `holders`: process id, program, bytes."""
    assert gpu.memory is not None and gpu.free is not None
    by = ", ".join(f"process {pid} ({program}) holds {size / GB:.1f} GB" for pid, program, size in holders)
    fits = max(0.0, gpu.free / gpu.memory - 0.02)
    return (
        f"GPU {gpu.id} ({gpu.name}) has {gpu.free / GB:.1f} of {gpu.memory / GB:.1f} GB free and vLLM asks for "
        f"{share:g} of it all, {share * gpu.memory / GB:.1f} GB ({by or 'no process here holds the rest'}): wait until "
        f"it is free, choose another (launch.devices), or set {group}.engine_args.gpu_memory_utilization={fits:.2f}"
    )


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


def server_arguments(
    model: ModelConfig, sample: SampleConfig, max_lora_rank: int, target_modules: Sequence[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """Return the command line and the environment of a vLLM server with the same engine as sampling/engines/vllm.py."""
    arguments = ["--model", model.path]
    for name, value in engine_arguments(model, sample, max_lora_rank, target_modules).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            arguments += [f"--{flag}", json.dumps(value) if isinstance(value, dict | list) else str(value)]
    return arguments, {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", **environment()}
