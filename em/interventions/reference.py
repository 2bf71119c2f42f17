"""The base model as a reference: the same weights with the adapter switched off, so there is no second copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer


@contextmanager
def base_answers(model: Any) -> Iterator[None]:
    """Let a PEFT model answer as its base inside the scope, without gradients.

    PEFT's disable_adapter also switches requires_grad off and on again; the weights are in a live graph here.
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if not layers:
        raise ValueError("the model has no adapter to switch off: a base model to compare with needs train.method=lora")
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        with torch.no_grad():
            yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was
