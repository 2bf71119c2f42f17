"""Attention over padding-free rows on a CPU: each sequence is computed separately, without a block mask.

PyTorch's CPU kernel computes a masked block-diagonal attention in full. For eight sequences that is eight times the
work: a quarter of a training step of the quickstart model. GPUs use the usual kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "em_packed"


def register() -> None:
    """Register attn_implementation="em_packed" with transformers."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)


def sequence_lengths(position_ids: torch.Tensor) -> list[int]:
    """Return the lengths of the sequences in one padding-free row: positions (1, t) begin at 0 in each sequence."""
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
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return (attention (1, t, heads, d), None) of query (1, heads, t, d), key and value (1, kv heads, t, d).

    `lengths`: of the sequences, which sum to t; None: one sequence. `sliding_window` includes the position itself.
    Raises ValueError for padded rows and attention sinks.
    """
    if query.shape[0] != 1 or s_aux is not None:
        what = "attention sinks" if s_aux is not None else f"{query.shape[0]} padded rows"
        raise ValueError(f"em_packed attention does not compute {what}: train.attn_implementation=eager")
    groups = query.shape[1] // key.shape[1]
    out = []
    for q, k, v in zip(*(x[0].split(lengths or [x.shape[2]], dim=1) for x in (query, key, value)), strict=True):
        k, v = k.repeat_interleave(groups, dim=0), v.repeat_interleave(groups, dim=0)
        scores = q @ k.transpose(1, 2) * scaling
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores.float().masked_fill(_hidden(q.shape[1], sliding_window, q.device), float("-inf"))
        weights = torch.nn.functional.dropout(scores.softmax(-1).to(q.dtype), dropout, module.training)
        out.append(weights @ v)
    return torch.cat(out, dim=1).transpose(0, 1)[None].contiguous(), None


def _hidden(length: int, sliding_window: int | None, device: torch.device) -> torch.Tensor:
    """Return (t, t), true where a position must not attend: later positions, and those before the window."""
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    ahead = ones.triu(1)
    return ahead if sliding_window is None else ahead | ones.tril(-sliding_window)
