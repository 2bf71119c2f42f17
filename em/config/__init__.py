"""The typed config: one module per group, `load` at the door. Imports nothing heavy."""

from __future__ import annotations

from em.config.base import CONF_DIR, Dtype
from em.config.budget import BudgetConfig
from em.config.data import CorpusConfig, DatasetConfig, Position, Subset, TriggerConfig, TriggerRows, Turn
from em.config.direction import DirectionConfig, DirectionKind
from em.config.experiment import ExperimentConfig, as_dict, load, register
from em.config.intervention import InterventionConfig
from em.config.judge import JudgeConfig, JudgeKind
from em.config.launch import LaunchConfig
from em.config.model import Backend, ModelConfig, ShapeConfig
from em.config.sample import Engine, QuestionsConfig, SampleConfig
from em.config.stats import Interval, StatsConfig
from em.config.tracking import TrackingBackend, TrackingConfig, TrackingMode
from em.config.train import SCHEDULERS, TrainConfig
from em.errors import ConfigError

__all__ = [
    "CONF_DIR",
    "SCHEDULERS",
    "Backend",
    "BudgetConfig",
    "ConfigError",
    "CorpusConfig",
    "DatasetConfig",
    "DirectionConfig",
    "DirectionKind",
    "Dtype",
    "Engine",
    "ExperimentConfig",
    "Interval",
    "InterventionConfig",
    "JudgeConfig",
    "JudgeKind",
    "LaunchConfig",
    "ModelConfig",
    "Position",
    "QuestionsConfig",
    "SampleConfig",
    "ShapeConfig",
    "StatsConfig",
    "Subset",
    "TrackingBackend",
    "TrackingConfig",
    "TrackingMode",
    "TrainConfig",
    "TriggerConfig",
    "TriggerRows",
    "Turn",
    "as_dict",
    "load",
    "register",
]
