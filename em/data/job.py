"""One dataset, as the planner hands it to the sweep. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from em.config import ExperimentConfig


@dataclass(frozen=True, kw_only=True)
class DataJob:
    """The sweep builds a dataset in its own process, so this never becomes a file."""

    key: str
    config: ExperimentConfig
    inputs: dict[str, Any]
    """What the key is made of; kept in the manifest."""
