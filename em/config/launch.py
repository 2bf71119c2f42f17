"""The machine that a sweep's workers run on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from em.config.base import check

STAGES = ("train", "sample", "judge", "report")


@dataclass(frozen=True)
class Card:
    """A GPU, from its vendor's data sheet."""

    flops: float
    """Dense bfloat16 arithmetic a second, peak."""
    bandwidth: float
    """Bytes a second from its memory."""
    memory: float
    """Bytes."""


CARDS = {
    "h200": Card(989e12, 4.8e12, 141e9),
    "h100": Card(989e12, 3.35e12, 80e9),
    "b200": Card(2250e12, 8.0e12, 180e9),
    "a100_80gb": Card(312e12, 2.04e12, 80e9),
    "a100_40gb": Card(312e12, 1.56e12, 40e9),
    "l40s": Card(362e12, 0.864e12, 48e9),
    "a10g": Card(70e12, 0.6e12, 24e9),
    "rtx_4090": Card(165e12, 1.01e12, 24e9),
}


@dataclass
class LaunchConfig:
    """The machine. These fields change no result, so they are in no key."""

    name: str = "local"
    devices: Any = "auto"
    """Workers that train or sample in parallel: auto = one per visible GPU (one worker if there is no GPU), a number =
    the first so many of them (so many workers on the CPU), or a list of ids as in CUDA_VISIBLE_DEVICES."""
    device: str = "auto"
    """The GPU that `em plan` and `em doctor` speak of: auto = this machine's, or a card that is elsewhere (h100, h200,
    b200, a100_80gb, a100_40gb, l40s, a10g, rtx_4090). A run takes what is there."""
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    """Run only these stages; results of the others must exist. `train` also builds its dataset."""

    def __post_init__(self) -> None:
        check(
            self.device == "auto" or self.device in CARDS,
            f"launch.device must be auto or one of {', '.join(CARDS)}, got {self.device!r}",
        )
        known = bool(self.stages) and set(self.stages) <= set(STAGES)
        check(known, f"launch.stages must be some of {', '.join(STAGES)}, got {self.stages}")
        listed = isinstance(self.devices, list) and self.devices and all(str(d).strip() for d in self.devices)
        counted = isinstance(self.devices, int) and not isinstance(self.devices, bool) and self.devices > 0
        check(
            self.devices == "auto" or bool(listed) or counted,
            f"launch.devices must be auto, a positive number or a list of device ids, got {self.devices!r}",
        )
