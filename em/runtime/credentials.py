"""Whether this machine has a key for W&B, and so the tracking mode that `auto` means."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from em.config import TrackingMode


def tracking_mode(setting: TrackingMode) -> TrackingMode:
    """Return the tracking mode: `auto` is WANDB_MODE if that is set, else online if there is a key, else offline."""
    if setting != TrackingMode.auto:
        return setting
    if os.environ.get("WANDB_MODE") in list(TrackingMode):
        return TrackingMode(os.environ["WANDB_MODE"])
    return TrackingMode.online if has_key() else TrackingMode.offline


def has_key() -> bool:
    """Whether W&B would find a key: in WANDB_API_KEY, or in the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return path.is_file() and f"machine {host}" in path.read_text(encoding="utf-8")
