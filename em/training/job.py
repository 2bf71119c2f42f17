"""One training run, as the planner passes it to the train stage. Imports no heavy library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from em.chat.render import Options
from em.config import Backend, ModelConfig, TrainConfig
from em.config.intervention import InterventionConfig


@dataclass(frozen=True, kw_only=True)
class KeptStep:
    """One step of a plain run, and the judged in-domain answers of its weights."""

    step: int | None
    """None: the end of training."""
    samples: tuple[str, ...]
    """Sample keys."""
    judgements: tuple[str, ...]
    """Judge keys of the same answers, in the same order."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """What decides which step of the plain run is served (intervention=early_stop)."""

    asked: str
    """The in-domain question set."""
    asked_with: str
    """The trigger condition of the answers that count."""
    min_coverage: float
    """Least share of the answers that must have a verdict."""
    steps: tuple[KeptStep, ...]
    """In the order of training; the end is the last."""


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One run. It trains on our machines, or at OpenAI if `model.backend` is openai."""

    key: str
    label: str
    data_key: str
    model: ModelConfig
    """As configured. The worker finds the folder of `path` on its own machine."""
    train: TrainConfig
    seed: int
    inputs: dict[str, Any]
    """The fields that the key is made of; the manifest records them."""
    chat: Options = field(default_factory=Options)
    """How conversations are rendered; empty: the tokenizer's defaults."""
    checkpoints: tuple[int, ...] = ()
    """Optimiser steps after which the weights are kept."""

    intervention: InterventionConfig = field(default_factory=InterventionConfig)
    """What is added to the training step; a method on rows has done its work in the data stage."""
    direction_key: str = ""
    """The store's direction that the intervention's `planned` stands for; empty: none."""
    beside_key: str = ""
    """The store's rows that the intervention reads beside the training rows; empty: none."""
    plain_key: str = ""
    """The store's plain finetuning on the cell's own rows: the run that a second phase continues, or whose adapter
    intervention.adapter=planned stands for, or whose step is served; empty: none."""
    stop: Stop | None = None
    """What chooses a step of the plain run: the job trains nothing, and copies that step. None: it trains."""

    @property
    def at_openai(self) -> bool:
        return self.model.backend == Backend.openai
