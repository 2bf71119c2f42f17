"""Tracking by Weights & Biases, or by Trackio as a local dashboard."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from em.config.base import check


class TrackingMode(StrEnum):
    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


class TrackingBackend(StrEnum):
    wandb = "wandb"
    trackio = "trackio"


@dataclass
class TrackingConfig:
    """The tracker. It only shows numbers: the result files are in the sweep folder."""

    backend: TrackingBackend = TrackingBackend.wandb
    mode: TrackingMode = TrackingMode.auto
    """W&B: auto = online if there is a key, else offline. Trackio is always local. Online, training curves appear
    during training; everything else, and offline everything, at the end of the sweep."""
    project: str = "em"
    entity: str | None = None
    samples: int = 200
    """Answers in a run's samples table, the most misaligned first. The rows artifact has all answers."""
    upload_adapters: bool = False
    """W&B: send the adapters' files to the project. Otherwise their artifacts hold only hashes and local paths."""
    timeout_s: float = 300.0
    """Most time for the tracker at the end of a sweep. After it, em prints a warning; the results are complete."""

    def __post_init__(self) -> None:
        check(self.samples >= 0, f"tracking.samples must be >= 0, got {self.samples}")
        check(self.timeout_s > 0, f"tracking.timeout_s must be positive, got {self.timeout_s}")
