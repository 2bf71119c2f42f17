"""SafeLoRA (Hsu et al. 2024, 2405.16833): project the finished adapter's updates on what alignment has changed.

V = W_aligned - W_unaligned of a module, P = V V' / |V|. Where cos(P B A, B A) is at most the dose, B becomes P B.
The published code's threshold is 0.5. Training is plain finetuning; what is saved and gated is the projected adapter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from peft.tuners.lora import LoraLayer
from safetensors import safe_open

from em.config.intervention import InterventionConfig
from em.interventions.base import Facts, Intervention
from em.models.paths import model_path

ADAPTER = "default"
PREFIX = "base_model.model."


class SafeLora(Intervention):
    """Projects the adapter while it is served."""

    def __init__(self, config: InterventionConfig, model: Any) -> None:
        """Raises ValueError, before the first step, for an unaligned model that `model` cannot be compared with."""
        super().__init__(config)
        self.unaligned = Stored(str(config.unaligned))
        for name, layer in adapted(model):
            self._apart(name, layer)
        self.similarities: dict[str, float] = {}
        """Module → the cosine of the weights that were served last. A module without an update has none."""

    @contextmanager
    def served(self, model: Any) -> Iterator[None]:
        trained: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
        self.similarities = {}
        try:
            with torch.no_grad():
                for name, layer in adapted(model):
                    b = layer.lora_B[ADAPTER].weight
                    projected, cosine = self._projected(name, layer)
                    if cosine is None:
                        continue
                    self.similarities[name] = cosine
                    if cosine <= self.dose:
                        trained.append((b, b.detach().clone()))
                        b.copy_(projected)
            yield
        finally:
            with torch.no_grad():
                for b, before in trained:
                    b.copy_(before)

    def _projected(self, name: str, layer: LoraLayer) -> tuple[torch.Tensor, float | None]:
        a, b = (side[ADAPTER].weight.float() for side in (layer.lora_A, layer.lora_B))
        projected = project(self._apart(name, layer), b)
        return projected, similarity(projected, b, a)

    def _apart(self, name: str, layer: LoraLayer) -> torch.Tensor:
        """Return what alignment has changed in a matrix, (outputs, inputs). Raises ValueError if that is nothing."""
        aligned = layer.get_base_layer().weight.detach()
        apart = aligned.float() - self.unaligned.weight(f"{name}.weight", aligned)
        if not apart.any():
            raise ValueError(f"intervention.unaligned has the same {name} as the model: there is nothing to project on")
        return apart

    def facts(self) -> Facts:
        found = self.similarities
        projected = sorted(name for name, cosine in found.items() if cosine <= self.dose)
        mean = sum(found.values()) / len(found) if found else None
        return {"modules": len(found), "projected": len(projected), "mean_similarity": mean, "similarities": found}


def adapted(model: Any) -> Iterator[tuple[str, LoraLayer]]:
    """Yield each adapted matrix with its name in the base model."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and ADAPTER in module.lora_B:
            yield name.removeprefix(PREFIX), module


def project(apart: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return P b with P = V V' / |V|, V = `apart` (outputs, inputs), b (outputs, rank). P itself is never made."""
    return apart @ (apart.T @ b) / torch.linalg.matrix_norm(apart)


def similarity(projected: torch.Tensor, b: torch.Tensor, a: torch.Tensor) -> float | None:
    """Return the cosine of projected A and B A as vectors, 0 if only the first is zero, None if B A is.

    The products are never made.
    """
    gram = a.double() @ a.double().T

    def inner(x: torch.Tensor, y: torch.Tensor) -> float:
        return float(((x.double().T @ y.double()) * gram).sum())

    lengths = [math.sqrt(max(0.0, inner(x, x))) for x in (projected, b)]
    if not lengths[1]:
        return None
    return inner(projected, b) / (lengths[0] * lengths[1]) if lengths[0] else 0.0


class Stored:
    """The weights of a model on disk, one matrix at a time."""

    def __init__(self, path: str) -> None:
        """`path`: a folder, an asset model, or an id of the Hub, whose weights are then downloaded."""
        found = model_path(path)
        folder = Path(found if Path(found).is_dir() else snapshot_download(found, allow_patterns=["*.safetensors"]))
        self.path, self.files = path, {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "pt") as weights:
                self.files.update(dict.fromkeys(weights.keys(), file))
        if not self.files:
            raise ValueError(f"intervention.unaligned={path} has no weights as safetensors: give a copy that has them")

    def weight(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """Return a matrix in float32, where `like` is. Raises ValueError if it is missing or has another shape."""
        if name not in self.files:
            raise ValueError(f"intervention.unaligned={self.path} has no {name}: give a model of the same architecture")
        with safe_open(self.files[name], "pt") as weights:
            found = weights.get_tensor(name)
        if found.shape != like.shape:
            raise ValueError(
                f"intervention.unaligned={self.path} is of another model: {name} is {tuple(found.shape)} there and "
                f"{tuple(like.shape)} here"
            )
        return found.to(like.device, torch.float32)
