"""What every group of the schema uses: the type of weights, and range checks."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from em.errors import ConfigError

_here = Path(__file__).resolve().parents[1]
CONF_DIR = str(next(p for p in (_here / "conf", _here.parent / "conf") if (p / "config.yaml").is_file()))
Values = dict[str, Any]
"""Values of a config group by field name, as JSON or YAML has them."""
OPENAI = "https://api.openai.com/"
"""The start of OpenAI's own addresses. Other servers may accept fewer or more request fields."""


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"


def check(ok: bool, message: str) -> None:
    """Raise ConfigError with `message` unless `ok`."""
    if not ok:
        raise ConfigError(message)


def check_engine_args(group: str, given: Mapping[str, Any], own: Mapping[str, str]) -> None:
    """Raise ConfigError for a vLLM option that em sets itself, or if tensor_parallel_size is not a positive integer.

    `own`: option that em sets → what to do instead.
    """
    for name in given:
        check(name not in own, f"{group}.engine_args.{name} cannot be given: {own.get(name)}")
    parallel = given.get("tensor_parallel_size", 1)
    whole = isinstance(parallel, int) and not isinstance(parallel, bool) and parallel > 0
    check(whole, f"{group}.engine_args.tensor_parallel_size must be a positive whole number, got {parallel!r}")
