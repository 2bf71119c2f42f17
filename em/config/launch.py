"""The machine that a sweep's workers run on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from em.config.base import check

STAGES = ("train", "sample", "judge", "report")


@dataclass
class LaunchConfig:
    """The machine. These fields change no result, so they are in no key."""

    name: str = "local"
    devices: Any = "auto"
    """Workers that train or sample in parallel: auto = one per visible GPU (one worker if there is no GPU), a number =
    the first so many of them (so many workers on the CPU), or a list of ids as in CUDA_VISIBLE_DEVICES."""
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    """Run only these stages; results of the others must exist. `train` also builds its dataset."""

    def __post_init__(self) -> None:
        known = bool(self.stages) and set(self.stages) <= set(STAGES)
        check(known, f"launch.stages must be some of {', '.join(STAGES)}, got {self.stages}")
        listed = isinstance(self.devices, list) and self.devices and all(str(d).strip() for d in self.devices)
        counted = isinstance(self.devices, int) and not isinstance(self.devices, bool) and self.devices > 0
        check(
            self.devices == "auto" or bool(listed) or counted,
            f"launch.devices must be auto, a positive number or a list of device ids, got {self.devices!r}",
        )
