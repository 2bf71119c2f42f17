"""The batch file: typed jobs as JSON, written by the sweep and read by a worker process.

`read` returns dataclasses equal to those given to `write`, with enums, nested dataclasses and tuples.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from em.store.store import write_atomic

T = TypeVar("T")


def write(path: Path, out: Path, jobs: Sequence[Any]) -> None:
    """Write a batch of jobs (dataclasses) for the store below `out`."""
    write_atomic(path, json.dumps({"out": str(out), "jobs": [dump(job) for job in jobs]}))


def read(path: Path, kind: type[T]) -> tuple[Path, list[T]]:
    """Return `out` and the jobs given to `write`. Raises TypeError if the jobs in the file are not of this kind."""
    batch = json.loads(path.read_text(encoding="utf-8"))
    return Path(batch["out"]), [load(kind, row) for row in batch["jobs"]]


def keys(path: Path) -> list[str]:
    """Return the keys of the jobs given to `write`, whatever their kind is."""
    return [job["key"] for job in json.loads(path.read_text(encoding="utf-8"))["jobs"]]


def dump(value: Any) -> Any:
    """Return a value in JSON's types: dataclasses as objects, enums as their values, tuples as lists."""
    if dataclasses.is_dataclass(value):
        return {field.name: dump(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: dump(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [dump(one) for one in value]
    return value


def load(kind: type[T], row: Any) -> T:
    """Return the dataclass that `dump` turned into `row`. Raises TypeError for an unknown or a missing field."""
    known: Any = kind  # mypy thinks that type[T] is not hashable
    hints = _hints(known)
    if unknown := set(row) - set(hints):
        raise TypeError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
    return kind(**{name: _typed(hints[name], value) for name, value in row.items()})


@cache
def _hints(kind: Any) -> dict[str, object]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _typed(hint: Any, value: Any) -> Any:
    """Return a JSON value as its annotation requires. A value annotated Any stays as it is."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _typed(_only(hint, inner), value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return load(hint, value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if origin is tuple:
        return tuple(_typed(inner[0], one) for one in value)
    if origin is list:
        return [_typed(inner[0], one) for one in value]
    if origin is dict:
        return {key: _typed(inner[1], one) for key, one in value.items()}
    return value


def _only(hint: Any, inner: tuple[Any, ...]) -> Any:
    """Return X of `X | None`. Raises TypeError for another union: its JSON does not show the type."""
    kinds = [kind for kind in inner if kind is not types.NoneType]
    if len(kinds) != 1:
        raise TypeError(f"{hint}: a job's field has one type, or one type and None")
    return kinds[0]
