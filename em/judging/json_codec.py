"""JSON of judge requests, replies and verdicts: orjson, and Python's json for values that orjson refuses."""

from __future__ import annotations

import json
from typing import Any

import orjson

# orjson takes an eighth of the CPU time of Python's json. It writes floats its own way (1.5e-7, not 1.5e-07), so stored
# verdicts keep their bytes only with it. It refuses NaN, infinities, lone surrogates, integers beyond 64 bits and deep
# nesting. Python's json takes them, so the library does not decide which replies can be read.


def loads(raw: bytes | str) -> Any:
    """Parse JSON. Raises ValueError or RecursionError, as json.loads does."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return json.loads(raw)


def dumps(value: Any) -> bytes:
    """Return compact JSON as UTF-8. `value` must not contain NaN or infinities: orjson would write null for them."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode("ascii")
