"""Attention over padding-free rows on a GPU: torch's flash kernel for sequences of different lengths.

transformers' sdpa builds a dense mask of t x t for a packed row and computes all of it, with the key heads repeated.
This kernel reads where each sequence begins and ends, which TRL's collator passes along.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface

from em.training import cpu_attention

NAME = "em_varlen"
CAPABILITY = (8, 0)
"""Least compute capability of a GPU for the kernel: Ampere."""
HALF = (torch.bfloat16, torch.float16)


def register() -> None:
    """Register attn_implementation="em_varlen" with transformers."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return (attention (1, t, heads, d), None) of query (1, heads, t, d), key and value (1, kv heads, t, d).

    `cu_seq_lens_q`: (sequences + 1,) int32, where each begins and the last ends; None: one sequence. `max_length_q`:
    the longest. `sliding_window` includes the position itself. In float32 without autocast (the gate before a full run)
    each sequence is computed by cpu_attention. Raises ValueError for what the kernel does not compute.
    """
    odd = {
        "padded rows": query.shape[0] != 1,
        "dropout": dropout > 0 and module.training,
        "a softcap": softcap is not None,
        "attention sinks": s_aux is not None,
    }
    if any(odd.values()):
        what = ", ".join(name for name, there in odd.items() if there)
        raise ValueError(f"{NAME} attention does not compute {what}: train.attn_implementation=eager")
    if cu_seq_lens_q is None or max_length_q is None:
        max_length_q = query.shape[2]
        cu_seq_lens_q = torch.tensor([0, max_length_q], dtype=torch.int32, device=query.device)
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    if dtype not in HALF:
        options = {"lengths": cu_seq_lens_q.diff().tolist(), "sliding_window": sliding_window}
        return cpu_attention.attend(module, query, key, value, None, scaling=scaling, **options)
    packed = [x[0].transpose(0, 1).to(dtype) for x in (query, key, value)]
    out = varlen_attn(
        *packed,
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out[None], None
