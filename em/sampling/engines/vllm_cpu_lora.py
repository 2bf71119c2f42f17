"""A vLLM plugin. It ends vLLM's processes with their worker, and fixes LoRA on vLLM's CPU backend (0.32).

Comments beside the functions describe the faults: wrong outputs of the base model, and a slow gather. GPU kernels are
not changed.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import Any

from em.models import bfloat16
from em.runtime.process import die_with_parent


def register() -> None:
    """Tie this process to its parent, and replace three methods of the CPU backend.

    vLLM calls this in every process of an engine (entry point vllm.general_plugins).
    """
    if multiprocessing.parent_process() is not None:
        die_with_parent()  # else the engine of a killed worker would keep its GPU's memory
    from vllm.platforms import current_platform  # noqa: TID251

    if not current_platform.is_cpu():
        return
    bfloat16.prepare_cpu()
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU  # noqa: TID251

    PunicaWrapperCPU.add_lora_linear = add_lora_linear
    PunicaWrapperCPU.add_lora_logits = add_lora_logits
    PunicaWrapperCPU.add_lora_embedding = add_lora_embedding


def add(y: Any, x: Any, a_stack: Any, b_stack: Any, *, scale: float, slot: int, rows: Any) -> None:
    """Add scale · x[rows] · A' · B' of the adapter in `slot` to y[rows]; `rows` None: all rows."""
    a = a_stack[slot].reshape(-1, a_stack.shape[-1])
    b = b_stack[slot].reshape(-1, b_stack.shape[-1])[: y.shape[-1]]
    down = ((x if rows is None else x[rows]).to(a.dtype) @ a.t()).mul_(scale)
    if rows is None:
        y.addmm_(down.to(y.dtype), b.t().to(y.dtype))
    else:
        y[rows] += (down @ b.t()).to(y.dtype)


def by_slot(index: Any) -> Iterator[tuple[int, Any]]:
    """Yield each adapter slot in use with its rows; None: all rows."""
    # In stock code "no adapter" is index -1, which selects the last slot: a base-model request in one batch with an
    # adapter request silently gets that adapter's output (vllm-project/vllm pull requests 48421 and 49656). Here rows
    # without an adapter are skipped. A step with one adapter needs no gather per token.
    slots = index.unique().tolist()
    for slot in slots:
        if slot >= 0:
            yield slot, None if len(slots) == 1 else (index == slot).nonzero().squeeze(1)


def add_lora_linear(
    self: Any,
    y: Any,
    x: Any,
    lora_a_stacked: Any,
    lora_b_stacked: Any,
    scale: float,
    output_slices: Any,
    *,
    buffer: Any = None,
    **_: Any,
) -> None:
    """Replace PunicaWrapperCPU.add_lora_linear."""
    y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
    for slot, rows in by_slot(self.token_lora_indices[: x.size(0)]):
        offset = 0
        for a_stack, b_stack, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            add(y[:, offset : offset + size], x, a_stack, b_stack, scale=scale, slot=slot, rows=rows)
            offset += size


def add_lora_embedding(self: Any, y: Any, x: Any, lora_b_stacked: Any, add_inputs: bool = True, **_: Any) -> None:
    """Replace PunicaWrapperCPU.add_lora_embedding. `x`: the rows of A that the tokens select."""
    # Stock code has the fault of the linear layers: a base-model request gets the last adapter's embedding.
    y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
    for slot, rows in by_slot(self.token_lora_indices[: x.size(0)]):
        b = lora_b_stacked[slot].reshape(-1, lora_b_stacked.shape[-1])[: y.shape[-1]]
        if rows is None:
            y.addmm_(x.to(y.dtype), b.t().to(y.dtype))
        else:
            y[rows] += (x[rows].to(b.dtype) @ b.t()).to(y.dtype)


def add_lora_logits(
    self: Any,
    y: Any,
    x: Any,
    lora_a_stacked: Any,
    lora_b_stacked: Any,
    scale: float,
    *,
    buffer: Any = None,
    **_: Any,
) -> None:
    """Replace PunicaWrapperCPU.add_lora_logits."""
    # Stock code gathers a vocabulary-sized matrix per row even for adapters that leave the output head alone, and fails
    # if the log-probabilities of a prompt are requested.
    y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
    if len(self.sampler_indices) < len(x):
        return  # log-probabilities of a prompt: vLLM does not say which adapter each row has
    for slot, rows in by_slot(self.sampler_indices[: len(x)]):
        if lora_a_stacked[slot].any():  # zero for an adapter that leaves the head alone
            add(y, x, lora_a_stacked, lora_b_stacked, scale=scale, slot=slot, rows=rows)
