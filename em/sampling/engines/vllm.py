"""The vLLM engine in this process. Without a GPU it is vLLM's CPU backend, with engines/vllm_cpu_lora.py as plugin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from em.chat.probe import Probe
from em.config import ModelConfig, SampleConfig
from em.errors import ConfigError
from em.models.vllm_settings import engine_arguments, prepare_environment, require_free_memory, require_known
from em.sampling.changing import StreamChange
from em.sampling.engine import Answer, Inventory, Request, applied_scale

AHEAD = 4
"""Requests in the engine, as a multiple of those that run at once: keeps its scheduler busy and memory constant."""


class VllmSampler:
    """One engine with one base model; every adapter is a LoRARequest."""

    def __init__(
        self,
        model: ModelConfig,
        sample: SampleConfig,
        max_lora_rank: int,
        target_modules: Sequence[str] = (),
        *,
        steered: bool = False,
    ) -> None:
        prepare_environment()
        from vllm import LLM  # noqa: TID251

        require_known("sample", sample.engine_args)
        require_free_memory("sample", sample.engine_args)
        arguments = engine_arguments(model, sample, max_lora_rank, target_modules, steered=steered)
        self.llm = LLM(model=model.path, trust_remote_code=False, **arguments)
        self.tokenizer = self.llm.get_tokenizer()
        self.ahead = AHEAD * sample.max_num_seqs
        self._count = 0
        self._loras: dict[Path, Any] = {}

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Answer]]:
        """Yield answers as they finish. All requests are in one queue."""
        engine, source = self.llm.llm_engine, iter(requests)
        waiting: dict[str, Request] = {}
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
            if waiting:  # an error, or the caller stopped: the next job must not get these answers
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
            output_kind=RequestOutputKind.FINAL_ONLY,  # by default each step returns an output per running request
            skip_clone=True,  # no other request shares the parameters
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
            name = f"{adapter.parent.name}-{number}"  # the prefix cache distinguishes adapters by name
            self._loras[adapter] = LoRARequest(name, number, str(adapter))
        return self._loras[adapter]

    def logprobs(self, pairs: Sequence[tuple[Path | None, Probe]]) -> list[list[float]]:
        from vllm import SamplingParams  # noqa: TID251

        outputs = self.llm.generate(
            [{"prompt_token_ids": p.prompt_ids + p.target_ids} for _, p in pairs],
            SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0),
            lora_request=[self._lora(adapter) for adapter, _ in pairs],
            use_tqdm=False,
        )
        return [
            [found[t].logprob for t, found in zip(p.target_ids, o.prompt_logprobs[len(p.prompt_ids) :], strict=True)]
            for (_, p), o in zip(pairs, outputs, strict=True)
        ]

    def change(self, change: StreamChange | None) -> None:
        """Steer all further requests at one block, by a bias of its down_proj; None: as the model is.

        Raises ConfigError for a projection, which no bias can make. Cached prompts are forgotten: they hold states of
        the model as it was.
        """
        if change is not None and (change.remove is not None or change.add is None):
            raise ConfigError("vLLM cannot remove a direction from block outputs: take sample=hf")
        block, vector = change.add if change is not None and change.add is not None else (None, None)
        self.llm.collective_rpc("steer", args=(block, None if vector is None else vector.tolist()))
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not forget its cached prompts: requests are still running")

    def inventory(self, adapter: Path) -> Inventory:
        request = self._lora(adapter)
        self.llm.llm_engine.add_lora(request)
        found = self.llm.collective_rpc("adapter_inventory", args=(request.lora_int_id,))[0]
        if found is None:
            raise RuntimeError(f"vLLM lists no adapter {request.lora_name} after loading {adapter}")
        modules, norm = found
        return Inventory(modules, applied_scale(norm, adapter))
