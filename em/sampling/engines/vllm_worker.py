"""A vLLM worker extension (`worker_extension_cls`): it reports loaded adapters, for the gates, and steers the model.

It runs inside vLLM's worker process, so it imports nothing of em.
"""

from __future__ import annotations

from typing import Any


class WorkerExtension:
    """Mix-in of vLLM's worker class."""

    model_runner: Any

    def adapter_inventory(self, number: int) -> tuple[int, float] | None:
        """Return (adapted modules, squared norm of all scaled B matrices) of an adapter; None: not loaded."""
        # vLLM packs q, k and v (gate and up) into one layer, and multiplies the scale into B
        adapter = self.model_runner.lora_manager._adapter_manager.get_adapter(number)
        if adapter is None:
            return None
        modules, norm = 0, 0.0
        for layer in adapter.loras.values():
            packed = isinstance(layer.lora_b, list)
            matrices = layer.lora_b if packed else [layer.lora_b]
            scales = layer.scaling if packed else [layer.scaling]
            for b, scale in zip(matrices, scales, strict=True):
                if b is not None:
                    modules += 1
                    norm += float((b.float() * scale).square().sum())
        return modules, norm

    def steer(self, block: int | None, vector: list[float] | None) -> None:
        """Add a vector after one block, at every token, as a bias of its down_proj; None: none at any block.

        Under tensor parallelism vLLM adds a bias on the first rank only, before it sums, so every rank may have it.
        """
        import re

        import torch

        model = self.model_runner.get_model()
        found = {}
        for name, module in model.named_modules():
            match = re.search(r"(?:^|\.)layers\.(\d+)\.mlp\.down_proj$", name)
            if match and "vision" not in name:
                found[int(match[1])] = getattr(module, "base_layer", module)  # below an adapter
        if block is not None and block not in found:
            raise RuntimeError(f"this model has no layers.{block}.mlp.down_proj: take sample=hf to steer it")
        for number, layer in found.items():
            bias = None
            if number == block:
                like = next(model.parameters())
                values = torch.tensor(vector, dtype=like.dtype, device=like.device)
                bias = torch.nn.Parameter(values, requires_grad=False)
            layer.register_parameter("bias", bias)
