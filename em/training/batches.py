"""Which rows an optimiser step has, which process computes them, and in which micro-batches. Pure functions of lengths.

The rows of a step depend on seed, epoch and batch size alone: neither on how many processes share them, nor on how they
are cut into micro-batches, nor on padding. The loss is a sum over the step's supervised tokens divided by their number,
so every cut gives the same step up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch


@dataclass
class Steps:
    """Batch sampler of an epoch: row indices, `per_step` an optimiser step, the last step may have fewer."""

    rows: int
    per_step: int
    seed: int
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.rows // self.per_step)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.rows, generator=generator).tolist()
        for start in range(0, self.rows, self.per_step):
            yield order[start : start + self.per_step]


def shares(lengths: Sequence[int], processes: int) -> list[list[int]]:
    """Indices of a step's rows for each process, about equal in tokens: longest first, to whom has least."""
    out: list[list[int]] = [[] for _ in range(processes)]
    tokens = [0] * processes
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        least = tokens.index(min(tokens))
        out[least].append(index)
        tokens[least] += lengths[index]
    return [sorted(share) for share in out]


def micro_batches(lengths: Sequence[int], rows: int, tokens: int | None) -> list[list[int]]:
    """Indices in micro-batches of `rows` rows, or of at most `tokens` tokens where given: first fit, longest first.

    A row longer than `tokens` is a micro-batch by itself (TrainConfig refuses a budget below max_length).
    """
    if tokens is None:
        return [list(range(i, min(i + rows, len(lengths)))) for i in range(0, len(lengths), rows)]
    out: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((i for i, left in enumerate(room) if left >= lengths[index]), None)
        if place is None:
            out.append([index])
            room.append(tokens - lengths[index])
        else:
            out[place].append(index)
            room[place] -= lengths[index]
    return out
