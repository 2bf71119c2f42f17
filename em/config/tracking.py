"""Weights & Biases, or Trackio as a local dashboard."""

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
    """Where finished numbers are shown. The files below outputs/ are the truth; a tracker only shows them."""

    backend: TrackingBackend = TrackingBackend.wandb
    mode: TrackingMode = TrackingMode.auto
    """W&B: auto = online when there is a key, else offline. Trackio is always local. Online, training curves appear
    while they come; all else, and offline all of it, at the end of the sweep."""
    project: str = "em"
    entity: str | None = None
    samples: int = 200
    """Answers in a run's samples table, the most misaligned first; all of them are in its rows artifact."""
    timeout_s: float = 300.0
    """The tracker gets this long at the end of a sweep; after it the results stand, untracked, with a sentence."""

    def __post_init__(self) -> None:
        check(self.samples >= 0, f"tracking.samples must be >= 0, got {self.samples}")
        check(self.timeout_s > 0, f"tracking.timeout_s must be positive, got {self.timeout_s}")
