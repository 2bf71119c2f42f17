"""How fast the device works that a plan is for: this machine's, or a card that is elsewhere (launch.device)."""

from __future__ import annotations

from dataclasses import dataclass

from em.config.launch import CARDS, Card
from em.runtime import machine

UTILISATION = 0.33
"""Share of a card's peak while finetuning, recomputation counted as work. By arithmetic, for packed rows of 350 tokens;
not yet seen on a card (docs/gpu.md)."""
TOKENS_PER_READ = 70.6
"""Tokens sampled in the time in which a card reads every weight once (2 bytes each): 45 % of an H200's roofline at 256
sequences is 5.9e-6 s per token and 10^9 weights."""
CPU_FLOPS = 0.18e12
"""Useful arithmetic a second of two CPU cores, measured on the quickstart: 2.7 s a step of 880 tokens, 135M weights."""
CPU_SECONDS_PER_TOKEN = 3.2e-2
"""Seconds per token and 10^9 weights of two CPU cores while sampling, from 229 tokens/s on the quickstart."""
ASSUMED = "h100"


@dataclass(frozen=True)
class Speed:
    kind: str
    """"gpu" or "cpu"."""
    name: str
    """For people, e.g. "h100", "h100 (assumed)", "no GPU here"."""
    flops: float
    """Useful arithmetic a second while finetuning."""
    seconds_per_token: float
    """Per token and 10^9 weights while sampling."""
    memory: int | None
    """Bytes; None: unknown, or no GPU."""
    elsewhere: bool
    """Whether it is not this machine, so that times of finished runs here say nothing about it."""


def speed(wanted: str) -> Speed:
    """Return the speed of launch.device. auto: the card of this machine, or its CPU if there is none."""
    if wanted != "auto":
        return _of(CARDS[wanted], wanted, True)
    if not machine.has_gpu():
        return Speed(
            kind="cpu",
            name="no GPU here",
            flops=CPU_FLOPS,
            seconds_per_token=CPU_SECONDS_PER_TOKEN,
            memory=None,
            elsewhere=False,
        )
    found = next((known(name, size) for name, size in machine.gpus()), None)
    return _of(CARDS[found or ASSUMED], found or f"{ASSUMED} (assumed)", False)


def known(name: str, size: int) -> str | None:
    """Return the card of CARDS with this name (nvidia-smi's) and memory in bytes; None if it is none of them."""
    for card in CARDS:
        words = card.split("_")
        label = words[-1] if words[0] == "rtx" else words[0]
        if label in name.lower().replace("-", " ").split():
            return "a100_40gb" if label == "a100" and size < 60e9 else card
    return None


def _of(card: Card, name: str, elsewhere: bool) -> Speed:
    return Speed(
        kind="gpu",
        name=name,
        flops=UTILISATION * card.flops,
        seconds_per_token=2e9 / card.bandwidth / TOKENS_PER_READ,
        memory=int(card.memory),
        elsewhere=elsewhere,
    )
