"""The members of judge=panel as configs of their own (`members`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from em.config.base import CONF_DIR
from em.config.judge import JudgeConfig, JudgeKind
from em.errors import ConfigError, nearest

POSSIBLE = (JudgeKind.openai, JudgeKind.inspect, JudgeKind.scripted)
"""Kinds that a member can have: judges that are asked over an API."""


def members(panel: JudgeConfig) -> dict[str, JudgeConfig]:
    """Return the members of a panel by name. Raises ConfigError for one that cannot be a member.

    A member is the name of an option of judge, inspect/<provider>/<model> among them, or the values of one.
    """
    out: dict[str, JudgeConfig] = {}
    for given in panel.members:
        one = _typed(given)
        if one.kind not in POSSIBLE or one.batch:
            raise ConfigError(f"judge.members: {one.name} is {one.kind}; members are asked over an API, not in batches")
        if one.name in out:
            raise ConfigError(f"judge.members: {one.name} is there twice: give each a name of its own")
        out[one.name] = one
    return out


def _typed(given: Any) -> JudgeConfig:
    values = _option(given) if isinstance(given, str) else dict(given)
    try:
        made = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(JudgeConfig), values))
    except OmegaConfBaseException as error:
        raise ConfigError(f"judge.members: {given}: {str(error).splitlines()[0]}") from error
    assert isinstance(made, JudgeConfig)
    return made


def _option(name: str) -> dict[str, Any]:
    folder = Path(CONF_DIR) / "judge"
    model = name.removeprefix("inspect/") if name.startswith("inspect/") else ""
    path = folder / f"{'inspect' if model else name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.yaml"))
        there = f"there are {', '.join(known)}{nearest(name, known)}"
        raise ConfigError(f"judge.members: there is no judge={name}; {there}")
    found = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(found, dict)
    return {str(k): v for k, v in found.items()} | ({"name": name, "model": model} if model else {})
