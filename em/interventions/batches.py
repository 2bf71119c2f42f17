"""Which positions of a micro-batch belong to which row, with and without padding."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from em.chat.encode import IGNORE

Batch = Mapping[str, torch.Tensor]


def next_labels(batch: Batch) -> torch.Tensor:
    """Return the label of the token that each position predicts, (rows, t); IGNORE at the end of a row."""
    return torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)


def predicting(batch: Batch) -> torch.Tensor:
    """Return (rows, t): true where the next position is a token of the same row.

    All false for a micro-batch without a supervised token: a process without rows of its own runs one of those.
    """
    found = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    if (batch["labels"] == IGNORE).all():
        return found
    if "attention_mask" in batch:
        found[:, :-1] = batch["attention_mask"][:, 1:] == 1
    else:
        found[:, :-1] = batch["position_ids"][:, 1:] != 0
    return found


def rows_of(batch: Batch, states: torch.Tensor) -> list[torch.Tensor]:
    """Return the states (t, hidden) of each row, without padding. `states`: (rows, t, hidden)."""
    if (batch["labels"] == IGNORE).all():
        return []
    if "attention_mask" in batch:
        lengths = batch["attention_mask"].sum(1).tolist()
        return [row[:length] for row, length in zip(states, lengths, strict=True)]
    starts = (batch["position_ids"][0] == 0).nonzero().squeeze(1).tolist()
    return [states[0, a:b] for a, b in zip(starts, [*starts[1:], states.shape[1]], strict=True)]
