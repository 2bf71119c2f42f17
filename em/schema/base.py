"""What every group of the schema uses."""

from __future__ import annotations

from enum import StrEnum


class ConfigError(ValueError):
    """The config cannot be used; the message says which key to change."""


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"


def check(ok: bool, sentence: str) -> None:
    """Raise ConfigError with `sentence` unless `ok`."""
    if not ok:
        raise ConfigError(sentence)
