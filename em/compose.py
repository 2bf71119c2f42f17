"""Overrides → the cells they mean, as `python -m em.run -m` would run them.

Hydra composes a cell in 50 to 80 ms of processor time. Cells that choose the same options of the config groups are
composed once; what they set on top of them is applied to a copy, as Hydra does it at the end of its composition.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from em.config import CONF_DIR, ConfigError, ExperimentConfig

PLAIN = {f.name for f in fields(ExperimentConfig) if isinstance(f.default, int | str) and f.default != MISSING}
"""Keys at the top that are values, not groups."""


def cells(overrides: Sequence[str]) -> list[DictConfig]:
    """Every cell of overrides with commas, ranges and globs in them. Raises ConfigError with Hydra's own sentence."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        vectors = [v for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None) for v in batch]
        with initialize_config_dir(version_base="1.3", config_dir=CONF_DIR):
            return compose_all(vectors)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(" ".join(str(error).partition("Config search path")[0].split())) from error


def compose_all(vectors: Sequence[Sequence[str]], config_name: str = "config") -> list[DictConfig]:
    """One composed config a vector of overrides. Needs a Hydra that is initialised. Raises what Hydra raises."""
    made: dict[tuple[str, ...], DictConfig] = {}
    return [_compose(vector, made, config_name) for vector in vectors]


def _compose(vector: Sequence[str], made: dict[tuple[str, ...], DictConfig], config_name: str) -> DictConfig:
    parsed = OverridesParser.create().parse_overrides(list(vector))
    values = [o for o in parsed if _sets_a_value(o)]
    rest = tuple(text for text, o in zip(vector, parsed, strict=True) if o not in values)
    if rest not in made:
        made[rest] = compose(config_name, overrides=list(rest))
    cell = copy.deepcopy(made[rest])
    try:
        for override in values:
            OmegaConf.update(cell, override.key_or_group, override.value(), merge=True)
    except OmegaConfBaseException:
        return compose(config_name, overrides=list(vector))  # Hydra says better what is wrong
    return cell


def _sets_a_value(override: Override) -> bool:
    """Whether it is `a.b=value` or `seed=value`: no group's option, nothing added or deleted, nothing of Hydra's."""
    key = override.key_or_group
    plain = key in PLAIN or ("." in key and not key.startswith("hydra."))
    return plain and override.type == OverrideType.CHANGE and override.package is None
