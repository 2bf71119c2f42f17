"""The transformers engine: padded `generate` in batches, for machines without vLLM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig, set_seed

from em.chat.probe import Probe
from em.config import ModelConfig, SampleConfig
from em.gates import record
from em.models import activations, bfloat16, paths
from em.runtime.cuda import named_memory, uses_gpu
from em.sampling.changing import StreamChange
from em.sampling.engine import Answer, Inventory, Request, applied_scale


def _batch_key(request: Request) -> tuple[Any, ...]:
    """Return the fields that all rows of a batch share: a sweep may have several temperatures."""
    return request.adapter, request.temperature, request.top_p, request.stop_ids


def _b_of(layer: Any, name: str) -> Any:
    """Return the matrix B of an adapter's layer, which an embedding keeps elsewhere."""
    return layer.lora_B[name].weight if name in layer.lora_B else layer.lora_embedding_B[name]


class HfSampler:
    """One base model; the adapter is swapped between groups of requests.

    transformers samples a whole batch with one generator, which the first row seeds. So a row is reproducible only
    together with its batch.
    """

    def __init__(self, model: ModelConfig, sample: SampleConfig) -> None:
        self.tokenizer = paths.tokenizer(model.path, model.revision, padding_side="left")
        bfloat16.prepare_cpu()
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        self.base = AutoModelForCausalLM.from_pretrained(
            model.path,
            revision=model.revision,
            dtype=getattr(torch, model.dtype),
            device_map="cuda" if uses_gpu() else None,
        ).eval()
        self.base.generation_config = (
            GenerationConfig()
        )  # else generate() fills missing options from the model's defaults
        self.batch = sample.max_num_seqs
        self._hooks = ExitStack()

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Answer]]:
        for how, group in groupby(requests, key=_batch_key):
            rows = list(group)
            with self._with(how[0]) as model:
                for start in range(0, len(rows), self.batch):
                    with named_memory(f"Lower sample.max_num_seqs={self.batch}"):
                        found = list(self._batch(model, rows[start : start + self.batch]))
                    yield from found

    def logprobs(self, pairs: Sequence[tuple[Path | None, Probe]]) -> list[list[float]]:
        out: list[list[float]] = []
        for adapter, group in groupby(pairs, key=lambda pair: pair[0]):
            with self._with(adapter) as model:
                out += record.logprobs(model, [p for _, p in group])
        return out

    def inventory(self, adapter: Path) -> Inventory:
        with self._with(adapter) as model:
            layers = record.lora_layers(model)
            norm = sum(
                float((_b_of(layer, name).float() * layer.scaling[name]).square().sum())
                for layer in layers
                for name in layer.active_adapters
            )
        return Inventory(len(layers), applied_scale(norm, adapter))

    def change(self, change: StreamChange | None) -> None:
        """Change the stream of all further requests by hooks on the blocks; None: as the model is."""
        self._hooks.close()
        if change is None:
            return
        steps: dict[int, list[activations.Change]] = {}
        if change.remove is not None:
            for block, row in enumerate(change.remove):
                steps.setdefault(block, []).append(activations.remove(torch.from_numpy(row)[None]))
        if change.add is not None:
            steps.setdefault(change.add[0], []).append(activations.add(torch.from_numpy(change.add[1])))
        changes = {block: activations.in_turn(parts) for block, parts in steps.items()}
        self._hooks.enter_context(activations.changing(self.base, changes))

    @contextmanager
    def _with(self, adapter: Path | None) -> Iterator[Any]:
        """Yield the model with the adapter on it, and remove the adapter afterwards."""
        if adapter is None:
            yield self.base
            return
        model = PeftModel.from_pretrained(self.base, str(adapter)).eval()
        try:
            yield model
        finally:
            self.base = model.unload()

    @torch.inference_mode()
    def _batch(self, model: Any, rows: list[Request]) -> Iterator[tuple[Request, Answer]]:
        longest = max(len(r.prompt_ids) for r in rows)
        ids = torch.tensor([[self.pad] * (longest - len(r.prompt_ids)) + r.prompt_ids for r in rows])
        mask = torch.tensor([[0] * (longest - len(r.prompt_ids)) + [1] * len(r.prompt_ids) for r in rows])
        set_seed(rows[0].seed)
        first = rows[0]
        out = model.generate(
            input_ids=ids.to(self.base.device),
            attention_mask=mask.to(self.base.device),
            do_sample=first.temperature > 0,
            temperature=first.temperature or None,
            top_p=first.top_p,
            top_k=0,
            min_new_tokens=1,
            max_new_tokens=max(r.max_tokens for r in rows),
            eos_token_id=first.stop_ids,
            pad_token_id=self.pad,
        )[:, longest:].tolist()
        for request, tokens in zip(rows, out, strict=True):
            own = tokens[: request.max_tokens]
            end = next((i for i, t in enumerate(own) if t in request.stop_ids), None)
            text = self.tokenizer.decode(own[:end], skip_special_tokens=True)
            count = len(own) if end is None else end + 1  # the end-of-turn token counts, as in vLLM
            yield request, Answer(text, "length" if end is None else "stop", count)
