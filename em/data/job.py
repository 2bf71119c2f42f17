"""The job of building one dataset, passed from the planner to the sweep. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from em.config import ExperimentConfig


@dataclass(frozen=True, kw_only=True)
class DataJob:
    """One dataset to build. The sweep builds it in its own process, so a job is never written to a file."""

    key: str
    config: ExperimentConfig
    as_long_as: ExperimentConfig | None = None
    """The cell whose answers these must be as long as; None: any."""
    inputs: dict[str, Any]
    """The inputs that the key is computed from; stored in the manifest."""
