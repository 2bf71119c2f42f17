"""Fused GPU kernels of liger-kernel, where it is installed: rotary positions, RMS norms, and the MLP's product.

They fuse element-wise steps that otherwise each read and write whole activations. The loss stays TRL's.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import torch

KERNELS = ("rope", "rms_norm", "swiglu", "geglu")
LOSSES = ("cross_entropy", "fused_linear_cross_entropy")


def apply(model: Any) -> str | None:
    """Let a model on a GPU use the kernels. Return their version and names for the facts; None: none are used.

    Call it before PEFT wraps the projections. It changes the model's layers and its module in transformers, for as long
    as the process lives. Models that also read images get them in their text model only.
    """
    if not torch.cuda.is_available() or importlib.util.find_spec("liger_kernel") is None:
        return None
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    text = model.get_decoder()
    patch = MODEL_TYPE_TO_APPLY_LIGER_FN.get(text.config.model_type)
    if patch is None:
        return None
    chosen = arguments(patch)
    patch(model=text, **chosen)
    names = ", ".join(name for name, on in chosen.items() if on)
    return f"liger-kernel {importlib.metadata.version('liger-kernel')}: {names}"


def arguments(patch: Callable[..., None]) -> dict[str, bool]:
    """Return the arguments for a function of liger-kernel: KERNELS on, LOSSES off, as far as it has them."""
    known = inspect.signature(patch).parameters
    wanted = dict.fromkeys(KERNELS, True) | dict.fromkeys(LOSSES, False)
    return {name: on for name, on in wanted.items() if name in known}
