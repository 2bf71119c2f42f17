"""What may follow on a command line that is being typed: config groups, their options, keys and values."""

from __future__ import annotations

from pathlib import Path

from hydra.errors import HydraException
from hydra.plugins.completion_plugin import DefaultCompletionPlugin
from omegaconf.errors import OmegaConfBaseException

from em.config import compose
from em.errors import ConfigError


def words(line: str) -> list[str]:
    """Return what the last word of the line can become: `em run model=qwe` gives every option that begins so.

    After a comma the next option of a sweep is completed. A line that is wrong so far gives nothing.
    """
    _, _, rest = line.strip().partition(" ")
    typed = rest.split()[1:] if not rest.startswith("-") else rest.split()
    word = typed.pop() if typed and not line.endswith(" ") else ""
    head, comma, last = word.rpartition(",")
    key, equal, _ = word.partition("=")
    asked = f"{key}={last}" if comma and equal else word
    folder = _config_dir(typed)
    if equal and (options := compose.options_of(key.lstrip("+~"), folder)):
        return [f"{head}{comma}{o}" if comma else f"{key}={o}" for o in options if o.startswith(asked[len(key) + 1 :])]
    others = [t for t in typed if "=" in t and not t.startswith("-")]
    try:
        with compose.initialized(folder) as loader:
            # Hydra's own completion; private like what compose.py uses, and held by the same pin
            found = DefaultCompletionPlugin(loader)._query("config", " ".join([*others, asked]) or " ")
    except (HydraException, OmegaConfBaseException, ConfigError):
        return []
    return [f"{head},{f.partition('=')[2]}" for f in found] if comma and equal else found


def _config_dir(typed: list[str]) -> Path | None:
    places = [i for i, word in enumerate(typed[:-1]) if word in ("--config-dir", "-cd")]
    return Path(typed[places[0] + 1]) if places else None
