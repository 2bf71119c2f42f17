"""One training run, as the planner passes it to the train stage. Imports no heavy library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from em.chat.render import Options
from em.config import Backend, ModelConfig, TrainConfig
from em.config.intervention import InterventionConfig


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
    plain_key: str = ""
    """The store's plain finetuning on the cell's own rows: the run that a second phase continues, or whose adapter
    intervention.adapter=planned stands for; empty: none."""

    @property
    def at_openai(self) -> bool:
        return self.model.backend == Backend.openai
