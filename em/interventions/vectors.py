"""The vectors that a method puts into the stream: of a direction's folder, or random ones of a given length."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from em.config.intervention import RANDOM, InterventionConfig
from em.directions import artefact


def rows_at(config: InterventionConfig, block: int, shape: tuple[int, int], seed: int) -> torch.Tensor:
    """Return one row [hidden] per entry of intervention.direction, for one block. `shape`: (blocks, hidden)."""
    return torch.stack([_row(each, config.norm, block, shape, f"{seed}/{n}") for n, each in _numbered(config)])


def _numbered(config: InterventionConfig) -> list[tuple[int, str]]:
    return list(enumerate(config.directions))


def _row(given: str, norm: float, block: int, shape: tuple[int, int], seed: str) -> torch.Tensor:
    folder = given.removeprefix(f"{RANDOM}:")
    if given != RANDOM:
        direction = artefact.load(Path(folder))
        direction.check_fits(*shape, "the model")
        row = torch.from_numpy(direction.at(block).copy())
        if folder == given:
            return row
        norm = float(row.norm())
    return random_row(shape[1], norm, f"{seed}/{block}")


def random_row(hidden: int, norm: float, seed: str) -> torch.Tensor:
    """Return a random vector of an exact length: the control of a direction."""
    row = torch.randn(hidden, generator=random_generator(seed), dtype=torch.float64)
    return (row * (norm / row.norm())).float()


def random_generator(seed: str) -> torch.Generator:
    """Return a generator of its own, so that torch's global one, which the adapter starts from, does not move."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:6], "big"))


def chosen_blocks(config: InterventionConfig, depth: int, default: Sequence[float]) -> list[int]:
    """Return the blocks of the hooks; `default`: shares of the depth, for blocks=null. Raises ValueError beyond it."""
    blocks = config.blocks if config.blocks is not None else sorted({int(share * depth) for share in default})
    if beyond := [b for b in blocks if b >= depth]:
        raise ValueError(f"intervention.blocks {beyond}: the model has the blocks 0 to {depth - 1}")
    return list(blocks)
