"""What every group of the schema uses."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from em.errors import ConfigError

OPENAI = "https://api.openai.com/"
"""Where addresses of OpenAI's own API begin; what is elsewhere may know less, or more."""


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"


def check(ok: bool, sentence: str) -> None:
    """Raise ConfigError with `sentence` unless `ok`."""
    if not ok:
        raise ConfigError(sentence)


def check_engine_args(group: str, given: Mapping[str, Any], own: Mapping[str, str]) -> None:
    """Raise ConfigError for an option of vLLM that em sets itself, and for a number of devices that is none. `own`: its
    name → what to do instead."""
    for name in given:
        check(name not in own, f"{group}.engine_args.{name} cannot be given: {own.get(name)}")
    parallel = given.get("tensor_parallel_size", 1)
    whole = isinstance(parallel, int) and not isinstance(parallel, bool) and parallel > 0
    check(whole, f"{group}.engine_args.tensor_parallel_size must be a positive whole number, got {parallel!r}")
