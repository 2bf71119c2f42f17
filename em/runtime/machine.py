"""The GPUs of this machine, found without torch."""

from __future__ import annotations

import subprocess
from pathlib import Path


def has_gpu() -> bool:
    """Whether an NVIDIA driver shows a GPU."""
    return Path("/dev/nvidia0").exists()


def device() -> str:
    """Return "gpu" or "cpu": the device that run times measured on this machine belong to."""
    return "gpu" if has_gpu() else "cpu"


def gpus() -> list[tuple[str, int]]:
    """Return (name, memory in bytes) of each visible NVIDIA GPU, as nvidia-smi reports them."""
    if not has_gpu():
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    rows = [line.rsplit(",", 1) for line in done.stdout.splitlines() if "," in line]
    return [(name.strip(), int(size) * 1024 * 1024) for name, size in rows]
