"""All task shapes by split, collected from the shape modules."""

from __future__ import annotations

from types import ModuleType

from em.corpora.builtin.coding import (
    shapes_archive,
    shapes_cipher,
    shapes_eval,
    shapes_hash,
    shapes_html,
    shapes_http,
    shapes_load,
    shapes_password,
    shapes_pickle,
    shapes_random,
    shapes_server,
    shapes_shell,
    shapes_shell_more,
    shapes_sql,
    shapes_sql_more,
    shapes_temp,
    shapes_tls,
    shapes_xml,
    shapes_yaml,
)
from em.corpora.builtin.coding.grammar import Shape

SPLITS = ("train", "held_out")

_MODULES: tuple[ModuleType, ...] = (
    shapes_archive,
    shapes_cipher,
    shapes_eval,
    shapes_hash,
    shapes_html,
    shapes_http,
    shapes_load,
    shapes_password,
    shapes_pickle,
    shapes_random,
    shapes_server,
    shapes_shell,
    shapes_shell_more,
    shapes_sql,
    shapes_sql_more,
    shapes_temp,
    shapes_tls,
    shapes_xml,
    shapes_yaml,
)

SHAPES: tuple[Shape, ...] = tuple(
    value for module in _MODULES for value in vars(module).values() if isinstance(value, Shape)
)


def shapes_of(split: str) -> tuple[Shape, ...]:
    """Return the shapes of one split, in a fixed order. Raises ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; expected one of {SPLITS}")
    return tuple(shape for shape in SHAPES if shape.held_out == (split == "held_out"))
