"""Errors that a person can fix. The command line prints their message without a traceback."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """An error that a person can fix. Its message is one line."""


class ConfigError(UserError, ValueError):
    """The config cannot be used; the message says which key to change."""


class ModelError(UserError, RuntimeError):
    """The base model named in the config cannot be used; the message says what to change."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" with the known name nearest to `word`; "" if none is near."""
    from difflib import get_close_matches  # for errors only

    found = get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""
