"""Choose the rows of an optimiser step, the process that computes each, and the micro-batches.

All functions depend on lengths only, so the rows of a step depend on seed, epoch and batch size, not on the number of
processes, the cut or padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

Row = TypeVar("Row")


@dataclass
class Steps:
    """Batch sampler of an epoch: yields `per_step` row indices per optimiser step; the last step may have fewer."""

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


class Beside(Generic[Row]):
    """Rows that a method reads beside the training rows: in one order that the seed draws, round and round."""

    def __init__(self, rows: Sequence[Row], per_step: int, seed: int) -> None:
        self._per_step = min(per_step, len(rows))
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
        self._rows = [rows[i] for i in order]

    def rows(self, step: int) -> list[Row]:
        """Return the rows of an optimiser step, counted from 0: those after the step before; [] if there are none.

        A step has `per_step` rows, and no row twice: all, if there are not as many.
        """
        start = step * self._per_step
        return [self._rows[i % len(self._rows)] for i in range(start, start + self._per_step)]


def shares(lengths: Sequence[int], processes: int) -> list[list[int]]:
    """Return the row indices of each process, about equal in tokens.

    Rows are assigned longest first, each to the process with the fewest tokens.
    """
    out: list[list[int]] = [[] for _ in range(processes)]
    tokens = [0] * processes
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        least = tokens.index(min(tokens))
        out[least].append(index)
        tokens[least] += lengths[index]
    return [sorted(share) for share in out]


def micro_batches(lengths: Sequence[int], rows: int, tokens: int | None) -> list[list[int]]:
    """Return row indices in micro-batches of `rows` rows, or of at most `tokens` tokens: first fit, longest first.

    A row longer than `tokens` is a micro-batch of its own (TrainConfig refuses `tokens` below max_length).
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


def passes(
    lengths: Sequence[int], processes: int, rows: int, tokens: int | None, *, even: bool
) -> list[list[list[int]]]:
    """Return the micro-batches of each process, at least one. An empty one stands for a pass without a row of the step.

    `even`: the same number for all processes. Under FSDP each pass through the model is a row of exchanges in which
    all processes take part, so a process with fewer passes would leave the others waiting for ever.
    """
    cuts = []
    for share in shares(lengths, processes):
        cuts.append([[share[i] for i in cut] for cut in micro_batches([lengths[i] for i in share], rows, tokens)])
    least = max(map(len, cuts)) if even else 1
    return [[*cut, *[[] for _ in range(least - len(cut))]] for cut in cuts]
