"""A vLLM plugin that mends LoRA on vLLM's CPU backend (0.32): wrong base outputs, and one gather per token.

In that build "no adapter" is index -1, which selects the *last* adapter slot: a base-model request that shares a batch
with an adapter request silently gets that adapter's output (vllm-project/vllm pull requests 48421 and 49656). Here rows
are grouped by adapter, rows without one are left alone, and a step with a single adapter needs no gather at all.
GPU kernels are not touched.
"""

from __future__ import annotations

from typing import Any


def register() -> None:
    """Entry point `vllm.general_plugins`: runs in every vLLM process, does nothing where there is no CPU backend."""
    try:
        import torch
        from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU  # noqa: TID251
    except ImportError:
        return

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
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        index = self.token_lora_indices[: x.size(0)]
        slots = torch.unique(index).tolist()
        for slot in slots:
            if slot < 0:
                continue
            rows = None if len(slots) == 1 else (index == slot).nonzero().squeeze(1)
            chosen, offset = x if rows is None else x[rows], 0
            for a_stack, b_stack, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                a = a_stack[slot].reshape(-1, a_stack.shape[-1])
                b = b_stack[slot].reshape(-1, b_stack.shape[-1])[:size]
                down = (chosen.to(a.dtype) @ a.t()).mul_(scale)
                if rows is None:
                    y[:, offset : offset + size].addmm_(down.to(y.dtype), b.t().to(y.dtype))
                else:
                    y[rows, offset : offset + size] += (down @ b.t()).to(y.dtype)
                offset += size

    PunicaWrapperCPU.add_lora_linear = add_lora_linear
