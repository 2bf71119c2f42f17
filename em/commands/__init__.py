"""One module a command of `em`: `add(commands)` declares its arguments, `run(arguments)` returns the exit code."""

from __future__ import annotations

from pathlib import Path

from em.store import StoreError


def sweep_file(folder: Path, name: str) -> Path:
    """A file of a sweep folder. Raises StoreError when the folder is none."""
    path = folder / name
    if not path.is_file():
        raise StoreError(f"{folder} holds no {name}: give a sweep folder, e.g. outputs/sweeps/em-1a2b3c4d")
    return path
