"""Inoculation adapter (2606.30252): a frozen adapter of the bad trait helps while training, and is then dropped.

A hook adds its product with a module's input, so it is no part of the model: it has no gradient and is not saved.
Published: rank 32, alpha 16, rsLoRA on all seven projections, at scale 1; the control is a random one of equal norm.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from em.config.intervention import RANDOM, InterventionConfig
from em.interventions.base import Facts, Intervention
from em.interventions.vectors import random_generator

PREFIX = "base_model.model."


@dataclass(frozen=True)
class Pair:
    """The two matrices of one module, the adapter's scale included in B."""

    a: torch.Tensor
    """(rank, inputs)"""
    b: torch.Tensor
    """(outputs, rank)"""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.a.to(x.dtype).T @ self.b.to(x.dtype).T

    @property
    def norm(self) -> float:
        """The Frobenius norm of B A."""
        return float((self.b.double() @ self.a.double()).norm())


class Companion(Intervention):
    """Adds dose x the frozen adapter's output to every module that it adapts."""

    def __init__(self, config: InterventionConfig, model: Any, seed: int) -> None:
        super().__init__(config)
        given = str(config.adapter)
        pairs = read(Path(given.removeprefix(f"{RANDOM}:")))
        if given.startswith(f"{RANDOM}:"):
            pairs = {name: random_pair(pair, f"{seed}/{name}") for name, pair in pairs.items()}
        self.pairs = {name: Pair(p.a.to(model.device), p.b.to(model.device)) for name, p in pairs.items()}
        modules = dict(model.named_modules())
        for name, pair in self.pairs.items():
            _require_fit(name, pair, modules.get(name))

    @contextmanager
    def attached(self, model: Any) -> Iterator[None]:
        fired: set[str] = set()
        modules = dict(model.named_modules())

        def hook(name: str, pair: Pair) -> Any:
            def run(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
                fired.add(name)
                return output + self.dose * pair(inputs[0])

            return run

        with ExitStack() as stack:
            for name, pair in self.pairs.items():
                stack.callback(modules[name].register_forward_hook(hook(name, pair)).remove)
            yield
        if missing := self.pairs.keys() - fired:
            raise RuntimeError(f"the companion adapter did not run at {sorted(missing)[0]}: nothing was added there")

    def facts(self) -> Facts:
        return {"modules": len(self.pairs), "norm": math.sqrt(sum(p.norm**2 for p in self.pairs.values()))}


def read(folder: Path) -> dict[str, Pair]:
    """Return module name → its matrices, of a PEFT LoRA adapter without extras that we do not compute."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    for name in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias"):
        if config.get(name):
            raise ValueError(f"{folder} has {name}: a companion must be a plain LoRA adapter")
    rank = config["r"]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    weights = load_file(folder / "adapter_model.safetensors")
    names = [name.removesuffix(".lora_A.weight") for name in weights if name.endswith(".lora_A.weight")]
    if len(weights) != 2 * len(names):
        raise ValueError(f"{folder} has weights other than lora_A and lora_B: a companion must be a plain LoRA adapter")
    return {
        n: Pair(weights[f"{n}.lora_A.weight"].float(), weights[f"{n}.lora_B.weight"].float() * scale) for n in names
    }


def random_pair(pair: Pair, seed: str) -> Pair:
    """Return random matrices of the same shapes whose product has the same norm: the control."""
    generator = random_generator(seed)
    a, b = (torch.randn(m.shape, generator=generator) for m in (pair.a, pair.b))
    return Pair(a, b * (pair.norm / Pair(a, b).norm))


def _require_fit(name: str, pair: Pair, module: Any) -> None:
    """Raise ValueError unless the module is there and has the shape of the pair."""
    layer = getattr(module, "base_layer", module)
    if layer is None:
        raise ValueError(f"intervention.adapter adapts {name.removeprefix(PREFIX)}, which the model does not have")
    inputs, outputs = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    if (inputs, outputs) != (pair.a.shape[1], pair.b.shape[0]):
        raise ValueError(
            f"intervention.adapter is of another model: {name.removeprefix(PREFIX)} has {inputs} inputs and {outputs} "
            f"outputs here, {pair.a.shape[1]} and {pair.b.shape[0]} there"
        )
