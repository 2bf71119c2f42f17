"""What is changed in a model while it is sampled: steering, ablation, the adapter's scale."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from em.config.base import check

PLANNED = "planned"
"""The direction that the config group `direction` describes. Any other text is a folder with a stored direction."""


class Where(StrEnum):
    everywhere = "everywhere"
    blocks = "blocks"


@dataclass
class SteerConfig:
    """Add scale times a direction's vector to the stream after one block, at every token."""

    direction: str | None = None
    """planned: the config group direction; else the folder of a stored direction; null: no steering."""
    block: int | None = None
    """Counted from 0."""
    scale: float = 1.0
    """Factor of the direction's own vector, which is not normed. Negative: away from it."""

    def __post_init__(self) -> None:
        if self.direction is None:
            plain = self.block is None and self.scale == 1.0
            check(plain, "sample.steer.block and scale need sample.steer.direction: planned, or a folder")
        else:
            check(self.block is not None and self.block >= 0, "sample.steer.direction needs sample.steer.block >= 0")


@dataclass
class AblateConfig:
    """Remove a direction from the residual stream."""

    direction: str | None = None
    """planned: the config group direction; else the folder of a stored direction; null: no ablation."""
    block: int | None = None
    """everywhere: the block whose vector is removed."""
    where: Where = Where.everywhere
    """everywhere: the vector of `block` from everything that is written to the stream, embedding included (an adapter).
    blocks: from the output of each block its own vector (hooks, sample=hf only)."""

    def __post_init__(self) -> None:
        if self.direction is None:
            plain = self.block is None and self.where == Where.everywhere
            check(plain, "sample.ablate.block and where need sample.ablate.direction: planned, or a folder")
        elif self.where == Where.everywhere:
            check(self.block is not None and self.block >= 0, "sample.ablate.direction needs sample.ablate.block >= 0")
        else:
            check(self.block is None, "sample.ablate.where=blocks removes every block's own vector: leave block out")
