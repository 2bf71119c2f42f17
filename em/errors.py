"""Errors that a person can fix. The command line prints their message without a traceback."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """What a person can mend: told as its one sentence, without a traceback."""


class ConfigError(UserError, ValueError):
    """The config cannot be used; the message says which key to change."""


class ModelError(UserError, RuntimeError):
    """The base model named in the config cannot be used; the message says what to change."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A half-sentence for an error about an unknown name: the known one it may be a slip of; "" without one."""
    from difflib import get_close_matches  # for errors only

    found = get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""
