"""What this machine computes on, without torch."""

from __future__ import annotations

import subprocess
from pathlib import Path


def has_gpu() -> bool:
    """Whether an NVIDIA driver shows a card."""
    return Path("/dev/nvidia0").exists()


def device() -> str:
    """ "gpu" or "cpu": what times that were measured here are times of."""
    return "gpu" if has_gpu() else "cpu"


def gpus() -> list[tuple[str, int]]:
    """(name, bytes) of each visible NVIDIA card, by its own tool; torch is not imported for this."""
    if not has_gpu():
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    rows = [line.rsplit(",", 1) for line in done.stdout.splitlines() if "," in line]
    return [(name.strip(), int(size) * 1024 * 1024) for name, size in rows]
