"""How efficient and how stable an adapter is: its loss at a given length, and under noise that is orthogonal to it.

From 2602.07852: a general solution of a narrow task has a lower loss at equal length than a narrow one, and loses less
under noise. Length is that of all updates scale · B · A together, as one vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from em.chat.encode import IGNORE, Tokens
from em.directions.artefact import DirectionError
from em.gates import record

BATCH_TOKENS = 2048
"""Most tokens, padding included, per forward pass."""


def layers_of(model: Any) -> list[Any]:
    """Return the adapter's layers. Raises DirectionError for a model without an adapter."""
    found = record.lora_layers(model)
    if not found:
        raise DirectionError("this model has no adapter: nothing can be scaled or moved")
    return found


@torch.inference_mode()
def length(layers: Sequence[Any]) -> float:
    """Return the length of scale · B · A over all layers: the square root of the sum of their squared entries."""
    total = 0.0
    for layer in layers:
        for name in layer.active_adapters:
            a, b = layer.lora_A[name].weight.double(), layer.lora_B[name].weight.double()
            total += layer.scaling[name] ** 2 * float(((b.T @ b) * (a @ a.T)).sum())
    return math.sqrt(total)


@contextmanager
def at_length(layers: Sequence[Any], target: float) -> Iterator[None]:
    """Scale the adapter to a length inside the block. Raises DirectionError for an adapter of length 0."""
    own = length(layers)
    if own == 0:
        raise DirectionError("this adapter is zero: it cannot be scaled to a length")
    with record.scaled(layers, target / own):
        yield


@contextmanager
def moved(layers: Sequence[Any], epsilon: float, seed: int) -> Iterator[None]:
    """Turn every A and B by noise inside the block: √(1 - ε²)·x + ε·y, y drawn orthogonal to x and as long as x.

    Every matrix keeps its length; ε = 0 leaves it as it is, bit for bit. Raises ValueError for ε outside 0 to 1.
    """
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon is between 0 and 1, got {epsilon}")
    draw = torch.Generator().manual_seed(seed)
    matrices = [
        part[name].weight for layer in layers for name in layer.active_adapters for part in (layer.lora_A, layer.lora_B)
    ]
    before = [matrix.data for matrix in matrices]
    try:
        for matrix in matrices:
            matrix.data = turned(matrix.data, epsilon, draw)
        yield
    finally:
        for matrix, own in zip(matrices, before, strict=True):
            matrix.data = own


def turned(x: torch.Tensor, epsilon: float, draw: torch.Generator) -> torch.Tensor:
    """Return √(1 - ε²)·x + ε·y with y drawn orthogonal to x, of the same length."""
    y = orthogonal(x, draw)
    if epsilon == 0:
        return x
    return (math.sqrt(1 - epsilon**2) * x.double() + epsilon * y).to(x.dtype)


def orthogonal(x: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Return a random tensor, float64, orthogonal to x as one vector and as long as x."""
    own = x.double()
    y = torch.randn(x.shape, generator=draw, dtype=torch.float64).to(x.device)
    size = float(own.norm())
    if size == 0:
        return torch.zeros_like(own)
    y = y - (y * own).sum() / size**2 * own
    return y * (size / float(y.norm()))


@torch.inference_mode()
def loss(model: Any, rows: Sequence[Tokens], batch_tokens: int = BATCH_TOKENS) -> float:
    """Return the mean negative log-probability of all supervised tokens, in nats."""
    device, total, count = next(model.parameters()).device, 0.0, 0
    for batch in _batches(sorted(rows, key=lambda row: len(row.input_ids)), batch_tokens):
        longest = max(len(row.input_ids) for row in batch)
        ids = torch.zeros((len(batch), longest), dtype=torch.long)
        labels = torch.full((len(batch), longest), IGNORE)
        for number, row in enumerate(batch):
            ids[number, : len(row.input_ids)] = torch.tensor(row.input_ids)
            labels[number, : len(row.labels)] = torch.tensor(row.labels)
        # Right padding needs no mask: in a causal model the tokens before it do not see it.
        logits = model(input_ids=ids.to(device), use_cache=False).logits[:, :-1]
        wanted = labels[:, 1:].to(device)
        known = wanted != IGNORE
        picked = logits[known].float().log_softmax(-1).gather(1, wanted[known][:, None])
        total -= float(picked.double().sum())
        count += int(known.sum())
    if not count:
        raise DirectionError("no row has a supervised token: there is no loss")
    return total / count


def _batches(rows: Sequence[Tokens], most: int) -> Iterator[list[Tokens]]:
    """Yield rows, sorted by length, in batches of at most `most` padded tokens."""
    batch: list[Tokens] = []
    for row in rows:
        if batch and (len(batch) + 1) * len(row.input_ids) > most:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
