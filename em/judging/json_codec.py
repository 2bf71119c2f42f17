"""JSON of what goes to a judge, comes back and is kept: orjson, a quarter of the CPU of Python's json.

What orjson refuses and Python's json takes (NaN and infinities, lone surrogates, integers of any size, deep nesting) is
read and written by that one, so that what counts as an answer does not depend on the library.
"""

from __future__ import annotations

import json
from typing import Any

import orjson


def loads(raw: bytes | str) -> Any:
    """Raises ValueError or RecursionError, as json.loads does."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return json.loads(raw)


def dumps(value: Any) -> bytes:
    """UTF-8. The caller has no NaN and no infinity in it: orjson would write null for them."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode("ascii")
