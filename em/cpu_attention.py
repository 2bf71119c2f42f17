"""Attention over padding-free rows on a CPU: each sequence by itself, no block mask.

PyTorch's CPU kernel computes a masked block-diagonal attention in full; for eight sequences that is eight times the
work, a quarter of a training step of the quickstart model. On a GPU the usual kernels are used.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "em_packed"


def register() -> None:
    """Make attn_implementation="em_packed" known to transformers."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)


def sequence_lengths(position_ids: torch.Tensor) -> list[int]:
    """Lengths of the sequences in one padding-free row: positions (1, t) start again at 0 with each."""
    starts = (position_ids[0] == 0).nonzero().squeeze(1).tolist()
    return [b - a for a, b in zip(starts, [*starts[1:], position_ids.shape[1]], strict=True)]


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float,
    dropout: float = 0.0,
    lengths: list[int] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query (1, heads, t, d), key and value (1, kv heads, t, d) → ((1, t, heads, d), None).

    `lengths` are the sequences' (they sum to t); None: one sequence.
    """
    groups = query.shape[1] // key.shape[1]
    out = []
    for q, k, v in zip(*(x[0].split(lengths or [x.shape[2]], dim=1) for x in (query, key, value)), strict=True):
        k, v = k.repeat_interleave(groups, dim=0), v.repeat_interleave(groups, dim=0)
        future = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool, device=q.device).triu(1)
        scores = (q @ k.transpose(1, 2) * scaling).float().masked_fill(future, float("-inf"))
        weights = torch.nn.functional.dropout(scores.softmax(-1).to(q.dtype), dropout, module.training)
        out.append(weights @ v)
    return torch.cat(out, dim=1).transpose(0, 1)[None].contiguous(), None
