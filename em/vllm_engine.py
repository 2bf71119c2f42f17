"""The vLLM sampler. On a machine without a GPU it is vLLM's CPU backend, with em/vllm_cpu_lora.py as its plugin."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from em.config import ModelConfig, SampleConfig
from em.gates import Probe
from em.sampler import Answer, Inventory, Request, applied_scale
from em.schema.base import ConfigError, nearest

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
"""Of a folder with Mistral's own files beside transformers', vLLM would else read the former: another tokenizer than in
training."""
MAX_LORAS = 4
"""Adapters active at once; requests come grouped by adapter, and each active one costs bandwidth."""
AHEAD = 4
"""Requests waiting in the engine, as a multiple of those that run: enough for its scheduler, flat in memory."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""max_lora_rank values vLLM accepts."""


def _cpu() -> bool:
    return not torch.cuda.is_available()


def engine_arguments(model: ModelConfig, sample: SampleConfig, max_lora_rank: int) -> dict[str, Any]:
    """vLLM's own engine arguments; sample.engine_args go over all."""
    if max_lora_rank > RANKS[-1]:
        raise ValueError(f"train.lora_r {max_lora_rank} is above vLLM's largest LoRA rank, {RANKS[-1]}")
    lora = {
        "enable_lora": True,
        "max_loras": MAX_LORAS,
        "max_lora_rank": next(r for r in RANKS if r >= max_lora_rank),
        "worker_extension_cls": "em.vllm_worker.AdapterInventory",
    }
    return {
        "revision": model.revision,
        "dtype": model.dtype.value,
        "max_model_len": model.max_model_len,
        "max_num_seqs": sample.max_num_seqs,
        "enable_prefix_caching": True,
        "seed": sample.seed,
        **HF_FORMAT,
        **(CPU_DEFAULTS if _cpu() else {}),
        **(lora if max_lora_rank else {}),
        **sample.engine_args,
    }


def require_known(group: str, given: Mapping[str, Any]) -> None:
    """Raise ConfigError for an engine argument that this vLLM does not have."""
    if not given:
        return
    from vllm.engine.arg_utils import EngineArgs  # noqa: TID251

    known = {field.name for field in dataclasses.fields(EngineArgs)}
    for name in given:
        if name not in known:
            raise ConfigError(f"{group}.engine_args.{name} is no engine argument of this vLLM{nearest(name, known)}")


def server_arguments(model: ModelConfig, sample: SampleConfig, max_lora_rank: int) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of a vLLM server with the engine that VllmSampler would have."""
    arguments = ["--model", model.path]
    for name, value in engine_arguments(model, sample, max_lora_rank).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            arguments += [f"--{flag}", json.dumps(value) if isinstance(value, dict | list) else str(value)]
    environment = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", **(CPU_ENVIRONMENT if _cpu() else {})}
    return arguments, environment


class VllmSampler:
    """One engine, one base model, every adapter as a LoRARequest. No merged weights."""

    def __init__(self, model: ModelConfig, sample: SampleConfig, max_lora_rank: int) -> None:
        for name, value in (CPU_ENVIRONMENT if _cpu() else {}).items():
            os.environ.setdefault(name, value)
        from vllm import LLM  # noqa: TID251

        require_known("sample", sample.engine_args)
        self.llm = LLM(model=model.path, trust_remote_code=False, **engine_arguments(model, sample, max_lora_rank))
        self.tokenizer = self.llm.get_tokenizer()
        self.ahead = AHEAD * sample.max_num_seqs
        self._count = 0
        self._loras: dict[Path, Any] = {}

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Answer]]:
        """Answers as they finish, all requests in one queue."""
        engine, source, waiting = self.llm.llm_engine, iter(requests), {}
        try:
            while True:
                for request in islice(source, max(0, self.ahead - len(waiting))):
                    waiting[self._add(request)] = request
                if not engine.has_unfinished_requests():
                    break
                for output in engine.step():
                    if output.finished:
                        best = output.outputs[0]
                        answer = Answer(best.text, str(best.finish_reason), len(best.token_ids))
                        yield waiting.pop(output.request_id), answer
        finally:
            if waiting:  # an error, or the caller left: the next job must not see these
                engine.abort_request(list(waiting))
        if waiting:
            raise RuntimeError(f"vLLM ended with {len(waiting)} requests unanswered")

    def _add(self, request: Request) -> str:
        from vllm.sampling_params import RequestOutputKind, SamplingParams  # noqa: TID251

        self._count += 1
        name = f"em{self._count}"
        params = SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.max_tokens,
            min_tokens=1,
            seed=request.seed,
            stop_token_ids=request.stop_ids,
            output_kind=RequestOutputKind.FINAL_ONLY,  # by default each step makes an output of every running request
            skip_clone=True,  # these are this request's own
        )
        self.llm.llm_engine.add_request(
            name, {"prompt_token_ids": request.prompt_ids}, params, lora_request=self._lora(request.adapter)
        )
        return name

    def _lora(self, adapter: Path | None) -> Any:
        if adapter is None:
            return None
        if adapter not in self._loras:
            from vllm.lora.request import LoRARequest  # noqa: TID251

            number = len(self._loras) + 1
            name = f"{adapter.parent.name}-{number}"  # the prefix cache goes by name
            self._loras[adapter] = LoRARequest(name, number, str(adapter))
        return self._loras[adapter]

    def logprobs(self, asked: Sequence[tuple[Path | None, Probe]]) -> list[list[float]]:
        from vllm import SamplingParams  # noqa: TID251

        outputs = self.llm.generate(
            [{"prompt_token_ids": p.prompt_ids + p.target_ids} for _, p in asked],
            SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0),
            lora_request=[self._lora(adapter) for adapter, _ in asked],
            use_tqdm=False,
        )
        return [
            [found[t].logprob for t, found in zip(p.target_ids, o.prompt_logprobs[len(p.prompt_ids) :], strict=True)]
            for (_, p), o in zip(asked, outputs, strict=True)
        ]

    def inventory(self, adapter: Path) -> Inventory:
        request = self._lora(adapter)
        self.llm.llm_engine.add_lora(request)
        found = self.llm.collective_rpc("adapter_inventory", args=(request.lora_int_id,))[0]
        if found is None:
            raise RuntimeError(f"vLLM lists no adapter {request.lora_name} after loading {adapter}")
        modules, norm = found
        return Inventory(modules, applied_scale(norm, adapter))
