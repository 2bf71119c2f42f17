"""runtime.credentials."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from em.config import TrackingMode


def mode(setting: TrackingMode) -> TrackingMode:
    """What `auto` means here: online when there is a key, else offline. WANDB_MODE, when set, wins."""
    if setting != TrackingMode.auto:
        return setting
    if os.environ.get("WANDB_MODE") in list(TrackingMode):
        return TrackingMode(os.environ["WANDB_MODE"])
    return TrackingMode.online if has_key() else TrackingMode.offline


def has_key() -> bool:
    """Whether W&B would find a key: in WANDB_API_KEY, or where `wandb login` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return path.is_file() and f"machine {host}" in path.read_text(encoding="utf-8")
