"""The base model."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from em.schema.base import Dtype, check


@dataclass
class ModelConfig:
    """The base model."""

    name: str = MISSING
    path: str = MISSING
    """A local folder, a hub id, or asset:smollm2_135m / asset:tiny_random (obtained once, cached)."""
    revision: str | None = None
    dtype: Dtype = Dtype.bfloat16
    """Weights while training and sampling."""
    max_model_len: int = 2048
    """Longest prompt + answer, tokens."""
    note: str = ""
    """Said beside every result of this model."""

    def __post_init__(self) -> None:
        check(self.max_model_len > 0, f"model.max_model_len must be positive, got {self.max_model_len}")
