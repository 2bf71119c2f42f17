"""What a sweep may cost."""

from __future__ import annotations

from dataclasses import dataclass

from em.config.base import check


@dataclass
class BudgetConfig:
    """Caps on what is expected (planning/estimate.py): a sweep beyond one is refused before anything runs."""

    max_dollars: float | None = None
    """Judging by an API, nothing of it cached; null: no cap. judge.max_dollars caps what is really spent."""
    max_gpu_minutes: float | None = None
    """Minutes of all devices together; on a machine without a GPU, of the CPU."""
    max_disk_gb: float | None = None
    """What stays in the store when the sweep is done, in 10^9 bytes."""

    def __post_init__(self) -> None:
        for name in ("max_dollars", "max_gpu_minutes", "max_disk_gb"):
            value = getattr(self, name)
            check(value is None or value >= 0, f"budget.{name} must be >= 0 or null, got {value}")
