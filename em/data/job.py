"""The job of building one dataset, passed from the planner to the sweep. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from em.config import ExperimentConfig


@dataclass(frozen=True, kw_only=True)
class DataJob:
    """One dataset to build. The sweep builds it in its own process, before all other stages, if it needs no scores."""

    key: str
    config: ExperimentConfig
    as_long_as: ExperimentConfig | None = None
    """The cell whose answers these must be as long as; None: any."""
    scores_key: str = ""
    """Key of the scores of all careful rows; empty: the rows are not chosen by scores."""
    inputs: dict[str, Any]
    """The inputs that the key is computed from; stored in the manifest."""
