"""Write an adapter that scales a trained one and removes a direction from everything written to the stream.

Removing the orthonormal rows D [k, hidden] turns a weight W that writes to the stream into (I - DᵀD)W, a LoRA of rank
k: B = -Dᵀ, A = DW. With a trained update s·B·A it is one of rank r + k: B' = [(I - DᵀD)·s·B, -Dᵀ], A' = [A; DW].
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from em.directions.artefact import DirectionError
from em.models import activations

WRITES = ("o_proj", "down_proj")
"""Names of a block's modules that write to the stream."""
NORMS_AFTER = ("post_feedforward_layernorm", "post_mlp_layernorm")
"""Names of a norm between a block's MLP and the stream, as in Gemma 2 and 3, OLMo 2 and GLM 4."""
EMBEDDING = "embed_tokens"
PREFIX = "base_model.model."
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Tensors = dict[str, torch.Tensor]
Matrix = tuple[torch.Tensor, torch.Tensor]
"""(A [rank, in], B [out, rank]) of one module, with the scale multiplied into B."""


def write(model: Any, folder: Path, trained: Path | None, lora_scale: float, basis: torch.Tensor | None) -> list[str]:
    """Write the adapter into `folder` in PEFT's format; return the names of its modules.

    `model`: the untouched base. `trained`: folder of the trained adapter; None: none. `basis`: orthonormal rows
    [k, hidden] that are removed; None: nothing is. The scale is in B, so the adapter's own is 1. Raises DirectionError
    for a model whose writes are not `o_proj`, `down_proj` and `embed_tokens`, or go through a norm.
    """
    given = {name: (a, b * lora_scale) for name, (a, b) in _trained(trained).items()} if trained else {}
    rank = max((len(a) for a, _ in given.values()), default=0) + (0 if basis is None else len(basis))
    pairs = dict(given)
    if basis is not None:
        pairs |= {name: _ablated(weight, given.get(name), basis) for name, weight in _writes(model)}
        pairs[_embedding_name(model)] = _ablated_embedding(activations.decoder(model).embed_tokens.weight, basis)
    names = sorted({name.rpartition(".")[2] for name in pairs})
    for name, module in model.named_modules():  # PEFT and vLLM want every module that is named
        if name.rpartition(".")[2] in names and name not in pairs and hasattr(module, "in_features"):
            pairs[name] = (torch.zeros(0, module.in_features), torch.zeros(module.out_features, 0))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(_tensors(pairs, rank)), folder / WEIGHTS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.config._name_or_path,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "bias": "none",
        "target_modules": names,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return names


def count(folder: Path) -> int:
    """Return the number of adapted modules in an adapter's file, the embedding included."""
    return sum("lora_A" in key or "lora_embedding_A" in key for key in load_file(folder / WEIGHTS))


def _trained(folder: Path) -> dict[str, Matrix]:
    """Return module name → (A, scaled B) of a trained adapter."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if config.get("alpha_pattern") or config.get("rank_pattern") or config.get("use_dora"):
        raise DirectionError(f"{folder} has ranks or scales of its own per module: it cannot be scaled as a whole")
    rank, alpha = config["r"], config["lora_alpha"]
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    weights = load_file(folder / WEIGHTS)
    out = {}
    for key, a in weights.items():
        name, found, _ = key.partition(".lora_A")
        if found:
            b = weights[key.replace(".lora_A", ".lora_B")].float()
            out[name.removeprefix(PREFIX)] = (a.float(), b * scale)
    if 2 * len(out) != len(weights):
        raise DirectionError(f"{folder} holds more than LoRA matrices of linear layers: it cannot be rewritten")
    return out


def _writes(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (module name, weight) of everything in the blocks that writes to the stream."""
    inside, hidden = activations.decoder(model), model.config.get_text_config().hidden_size
    prefix = next(name for name, module in model.named_modules() if module is inside)
    for number, layer in enumerate(inside.layers):
        if any(hasattr(layer, norm) for norm in NORMS_AFTER):  # its weights turn what is left back into the direction
            raise DirectionError(
                f"block {number} of this model has a norm between its writes and the stream (as Gemma 2 and 3): a "
                f"direction that is removed before it comes back. Take sample.ablate.where=blocks with sample=hf"
            )
        found = [(n, m) for n, m in layer.named_modules() if n.rpartition(".")[2] in WRITES and hasattr(m, "weight")]
        if len(found) != len(WRITES) or any(len(m.weight) != hidden for _, m in found):
            raise DirectionError(
                f"block {number} of this model does not write to the stream by o_proj and down_proj alone: a direction "
                f"cannot be removed everywhere by an adapter"
            )
        yield from ((f"{prefix}.layers.{number}.{name}", m.weight.detach().float()) for name, m in found)


def _embedding_name(model: Any) -> str:
    wanted = activations.decoder(model).embed_tokens
    return next(name for name, module in model.named_modules() if module is wanted)


def _ablated(weight: torch.Tensor, given: Matrix | None, basis: torch.Tensor) -> Matrix:
    rows = basis.to(weight.device)
    a, b = rows @ weight, -rows.T
    if given is None:
        return a.cpu(), b.cpu()
    own, out = given[0].to(weight.device), given[1].to(weight.device)
    return torch.cat([own, a]).cpu(), torch.cat([out - rows.T @ (rows @ out), b], dim=1).cpu()


def _ablated_embedding(weight: torch.Tensor, basis: torch.Tensor) -> Matrix:
    rows = basis.to(weight.device)
    return (weight.detach().float() @ rows.T).T.cpu(), -rows.T.cpu()


def _tensors(pairs: dict[str, Matrix], rank: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield PEFT's tensors, all of one rank: the rows and columns that a module lacks are zero."""
    for name, (a, b) in pairs.items():
        padded_a, padded_b = torch.zeros(rank, a.shape[1]), torch.zeros(b.shape[0], rank)
        padded_a[: len(a)], padded_b[:, : b.shape[1]] = a, b
        if name.rpartition(".")[2] == EMBEDDING:
            yield f"{PREFIX}{name}.lora_embedding_A", padded_a
            yield f"{PREFIX}{name}.lora_embedding_B", padded_b
        else:
            yield f"{PREFIX}{name}.lora_A.weight", padded_a
            yield f"{PREFIX}{name}.lora_B.weight", padded_b
