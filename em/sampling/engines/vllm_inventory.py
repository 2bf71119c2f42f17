"""A vLLM worker extension (`worker_extension_cls`) that reports the adapters an engine has loaded, for the gates.

It runs inside vLLM's worker process, so it imports nothing.
"""

from __future__ import annotations

from typing import Any


class AdapterInventory:
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
