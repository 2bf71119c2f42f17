"""The whole config of a cell. `load` turns a config that Hydra composed into dataclasses and refuses unknown keys.

The schema of a group is the module with the group's name. The stages get these dataclasses, never an omegaconf object.
Fields that mean the same as an option of TRL, PEFT or vLLM have that option's name.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from em.config.base import Values, check
from em.config.budget import BudgetConfig
from em.config.data import CorpusConfig, DatasetConfig, TriggerConfig
from em.config.direction import DirectionConfig
from em.config.intervention import InterventionConfig
from em.config.judge import JudgeConfig
from em.config.launch import LaunchConfig
from em.config.model import ModelConfig
from em.config.sample import QuestionsConfig, SampleConfig
from em.config.stats import StatsConfig
from em.config.tracking import TrackingConfig
from em.config.train import TrainConfig
from em.errors import ConfigError


@dataclass
class ExperimentConfig:
    """One cell of a sweep."""

    model: ModelConfig = MISSING
    corpus: CorpusConfig = MISSING
    dataset: DatasetConfig = MISSING
    trigger: TriggerConfig = MISSING
    train: TrainConfig = MISSING
    sample: SampleConfig = MISSING
    questions: QuestionsConfig = MISSING
    judge: JudgeConfig = MISSING
    tracking: TrackingConfig = MISSING
    launch: LaunchConfig = MISSING
    stats: StatsConfig = MISSING
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    direction: DirectionConfig = field(default_factory=DirectionConfig)
    intervention: InterventionConfig = field(default_factory=InterventionConfig)
    seed: int = 0
    """Seed of the training run: row order, subset and adapter initialisation."""
    name: str = "em"
    """Name of the sweep folder and of the W&B group."""
    out: str = "outputs"
    """Folder that holds the store and the sweeps."""

    def __post_init__(self) -> None:
        one = "/" not in self.name and self.name.strip(". ") != ""
        check(one, f"name must be one folder's name without a slash, got {self.name!r}: sweeps lie side by side")


def register() -> None:
    """Give Hydra the schema, which conf/config.yaml starts with, and the options that no file lists (options.py)."""
    from hydra._internal.sources_registry import SourcesRegistry  # the public way scans all plugins, which takes long
    from hydra.core.config_store import ConfigStore  # slow to import, and `load` does not need it

    from em.config.options import UnlistedOptions

    ConfigStore.instance().store(name="em_schema", node=ExperimentConfig)
    SourcesRegistry.instance().register(UnlistedOptions)


def load(cfg: DictConfig) -> ExperimentConfig:
    """Return the typed config of a composed one.

    Raises ConfigError for an unknown key (also one added with `+`), a missing value, a wrong type or a bad range.
    """
    try:
        if OmegaConf.get_type(cfg) is ExperimentConfig:  # composed on the schema: only keys added with + are untyped
            _refuse_unknown(cfg, "")
            loaded = OmegaConf.to_object(cfg)
        else:
            plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
            loaded = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ExperimentConfig), plain))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        first = str(error).splitlines()[0]
        raise ConfigError(f"{key}: {first}" if key else first) from error
    assert isinstance(loaded, ExperimentConfig)
    return loaded


def _refuse_unknown(cfg: DictConfig, prefix: str) -> None:
    kind = OmegaConf.get_type(cfg)
    if not dataclasses.is_dataclass(kind):
        return
    known = {f.name for f in dataclasses.fields(kind)}
    for key in cfg:
        if key not in known:
            raise ConfigError(f"{prefix}{key!s}: Key '{key!s}' not in '{kind.__name__}'")
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            _refuse_unknown(node, f"{prefix}{key!s}.")


def as_dict(config: Any) -> Values:
    """Return a config, or one group of it, as JSON-ready values. Lists and mappings are shared with the config.

    The result holds no secret: a config only names the environment variables of keys.
    """
    return {k: as_dict(v) if dataclasses.is_dataclass(v) else v for k, v in vars(config).items()}
