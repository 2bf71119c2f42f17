"""What a sweep may cost."""

from __future__ import annotations

from dataclasses import dataclass

from em.config.base import check


@dataclass
class BudgetConfig:
    """Caps on the estimated cost (planning/estimate). A sweep above a cap is refused before anything runs."""

    max_dollars: float | None = None
    """Judging by an API, if no answer comes from the cache; null: no cap. judge.max_dollars caps the real spending."""
    max_gpu_minutes: float | None = None
    """Minutes summed over all devices; on a machine without a GPU, minutes of the CPU."""
    max_disk_gb: float | None = None
    """Size of the sweep's stored results, in 10^9 bytes."""

    def __post_init__(self) -> None:
        for name in ("max_dollars", "max_gpu_minutes", "max_disk_gb"):
            value = getattr(self, name)
            check(value is None or value >= 0, f"budget.{name} must be >= 0 or null, got {value}")
