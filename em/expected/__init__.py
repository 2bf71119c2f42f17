from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def compare(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    return []
