"""Start the engine that the config names."""

from __future__ import annotations

from collections.abc import Sequence

from em.config import Engine, ModelConfig, SampleConfig
from em.sampling.engine import Sampler


def open_sampler(
    model: ModelConfig,
    sample: SampleConfig,
    max_lora_rank: int,
    target_modules: Sequence[str] = (),
    *,
    steered: bool = False,
) -> Sampler:
    """Start the engine of `sample.engine` and return it. `model.path`: a folder, hub id or name at the API.

    `target_modules`: names of the modules that adapters may adapt; empty: any. `steered`: its residual stream will be
    changed."""
    # each engine imports its own heavy library, so only the chosen one is imported
    if sample.engine == Engine.vllm:
        from em.sampling.engines.vllm import VllmSampler

        return VllmSampler(model, sample, max_lora_rank, target_modules, steered=steered)
    if sample.engine == Engine.vllm_server:
        from em.sampling.engines.vllm_server import ServerSampler

        return ServerSampler(model, sample, max_lora_rank, target_modules)
    if sample.engine == Engine.openai:
        from em.sampling.engines.openai import OpenAiSampler

        return OpenAiSampler(model, sample)
    from em.sampling.engines.hf import HfSampler

    return HfSampler(model, sample)
