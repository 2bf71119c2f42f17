"""One training run, as the planner hands it to the train stage. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from em.chat.render import Options
from em.config import Backend, ModelConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One run: trained here, or behind OpenAI's API where `model.backend` says so."""

    key: str
    label: str
    data_key: str
    model: ModelConfig
    """As configured: the worker looks up where its folder is on its own machine."""
    train: TrainConfig
    seed: int
    inputs: dict[str, Any]
    """What the key is made of; kept in the manifest."""
    chat: Options = field(default_factory=Options)
    """How conversations are rendered; empty: as the tokenizer does by itself."""
    checkpoints: tuple[int, ...] = ()
    """Optimiser steps after which the weights are kept."""

    @property
    def at_openai(self) -> bool:
        return self.model.backend == Backend.openai
