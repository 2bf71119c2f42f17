"""The command that makes a cell: the options and values that give its config. The door: command_of."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from em import config as configs
from em.config import as_dict, compose
from em.config.base import CONF_DIR
from em.errors import UserError
from em.planning import recipe
from em.planning.cells import flatten

PLACES = ("out", "launch", "budget", "tracking")
"""Groups and keys that say where and how a cell runs, not what it is."""


def command_of(config: Mapping[str, Any]) -> str:
    """Return a command whose cell has this resolved config; "" if no options of this checkout give it."""
    configs.register()
    try:
        whole = as_dict(configs.load(OmegaConf.create(dict(config))))  # an older sweep lacks later fields
        wanted = {name: value for name, value in whole.items() if name not in PLACES}
        groups = [group for group in compose.groups() if group in wanted]
        chosen = [f"{group}={option}" for group in groups if (option := _nearest(group, wanted[group]))]
        first = _composed(chosen)
        differ = {name: value for name, value in _flat(wanted).items() if first.get(name) != value}
        values = [f"{'' if name in first else '+'}{name}={_spelt(value)}" for name, value in differ.items()]
        overrides = [*_unlike_default(chosen), *values]
        if _composed(overrides) != _flat(wanted):
            return ""
    except UserError:  # e.g. an option of --config-dir, or a model that is not on this machine
        return ""
    return shlex.join(["python", "-m", "em.run", *overrides])


def _composed(overrides: list[str]) -> Mapping[str, Any]:
    (cell,) = compose.cells(overrides)
    return _flat({name: value for name, value in as_dict(recipe.load(cell)).items() if name not in PLACES})


def _flat(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return dict(flatten(dict(config)))


def _unlike_default(chosen: list[str]) -> list[str]:
    """Return the options that config.yaml does not choose anyway."""
    text = (Path(CONF_DIR) / "config.yaml").read_text(encoding="utf-8")
    return [option for option in chosen if f"- {option.replace('=', ': ')}\n" not in text]


def _nearest(group: str, wanted: Any) -> str:
    """Return the option of a group with the fewest other values; "" if the group has no options of its own."""
    folder = Path(CONF_DIR) / group
    names = sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))
    plain = {name: found for name in names if isinstance(found := compose.plain(group, name), dict)}
    flat = _flat(wanted or {})

    def distance(name: str) -> int:
        own = _flat(plain[name])
        return sum(own.get(key) != flat.get(key) for key in {*own, *flat})

    return min(plain, key=distance, default="")


def _spelt(value: Any) -> str:
    """Return a value as Hydra reads it on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(_spelt, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_spelt(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return value if value.replace("_", "").isalnum() and value not in ("null", "true", "false") else f"'{quoted}'"
    return repr(value)
