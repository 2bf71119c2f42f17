"""What a rank-1 adapter does at each token: one scalar per adapted module, s = A·x, x being the module's input.

A rank-1 adapter adds scale · s · B to its module's output, so s says how much of B is added at a token (Turner et al.
2025, 2506.11613).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from em.directions.artefact import DirectionError
from em.directions.extract import Text
from em.directions.projections import Done
from em.gates import record


@dataclass(frozen=True)
class Scalars:
    """The scalars of texts."""

    modules: tuple[str, ...]
    values: list[NDArray[np.float64]]
    """Per text [tokens, modules]: prompt, then answer."""


@torch.inference_mode()
def of_texts(model: Any, texts: Sequence[Text], on_done: Done | None = None) -> Scalars:
    """Return the scalars of texts, one forward pass each. `model`: a PeftModel.

    Raises DirectionError for an adapter of another rank.
    """
    layers = _layers(model)
    found: dict[str, NDArray[np.float64]] = {}

    def hook(name: str) -> Any:
        def run(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            found[name] = output[0, :, 0].double().cpu().numpy()

        return run

    device, values = next(model.parameters()).device, []
    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.lora_A[model.active_adapter].register_forward_hook(hook(name)).remove)
        for text in texts:
            found.clear()
            model(input_ids=torch.tensor([text.prompt_ids + text.answer_ids], device=device), use_cache=False)
            if missing := next((name for name in layers if name not in found), None):
                raise RuntimeError(f"the adapter of {missing} did not run: it has no scalar")
            values.append(np.stack([found[name] for name in layers], axis=1))
            if on_done:
                on_done(1)
    return Scalars(tuple(layers), values)


def _layers(model: Any) -> Mapping[str, Any]:
    """Return name of the module below the blocks → its LoRA layer. Raises DirectionError for another rank."""
    wanted = {id(layer) for layer in record.lora_layers(model)}
    found = {name: module for name, module in model.named_modules() if id(module) in wanted}
    ranks = sorted({layer.r[model.active_adapter] for layer in found.values()})
    if ranks != [1]:
        raise DirectionError(
            f"this adapter has rank {', '.join(map(str, ranks)) or 0}: only one of rank 1 has one scalar a token. "
            f"Train with train=rank1, or train.lora_r=1"
        )
    return {name.partition(".layers.")[2]: layer for name, layer in found.items()}
