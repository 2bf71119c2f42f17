"""Weights & Biases."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TrackingMode(StrEnum):
    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class TrackingConfig:
    """Weights & Biases."""

    mode: TrackingMode = TrackingMode.auto
    """auto: online when WANDB_API_KEY is set, else offline."""
    project: str = "em"
    entity: str | None = None
