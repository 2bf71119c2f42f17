"""Answers to draw from one model, as the planner hands them to the sample stage. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from em.chat.render import Options
from em.config import Backend, ModelConfig, SampleConfig, TriggerConfig
from em.config.train import Method
from em.records import Message, Question
from em.store import Store, layout


@dataclass(frozen=True, kw_only=True)
class SampleJob:
    """Answers lo..hi-1 to every question of one set, from one model."""

    key: str
    label: str
    adapter_key: str | None
    """Key of the train stage; None: the base model."""
    questions: tuple[Question, ...]
    lo: int
    hi: int
    trigger: TriggerConfig
    sample: SampleConfig
    model: ModelConfig
    """As configured: the worker looks up where its folder is on its own machine."""
    max_lora_rank: int
    """Rank of the adapter, 0 for the base model: an engine is built for the largest of its batch."""
    inputs: dict[str, Any]
    """What the key is made of; kept in the manifest."""
    chat: Options = field(default_factory=Options)
    """How conversations are rendered; empty: as the tokenizer does by itself."""
    step: int | None = None
    """Training step of a kept checkpoint; None: the finished run."""
    whole_model: bool = False
    """The train stage left a whole model, which is an engine of its own, instead of an adapter."""
    context: tuple[Message, ...] = ()
    """Turns shown before each question (questions.k_shot); rows do not repeat them, context.jsonl has them once."""
    choices: tuple[str, ...] = ()
    """Sets whose options are scored by log-probability instead."""

    @property
    def at_openai(self) -> bool:
        return self.model.backend == Backend.openai

    def weights(self, store: Store) -> Path | None:
        """Return the folder to serve; None: the base model."""
        if self.adapter_key is None:
            return None
        return layout.weights(store, self.adapter_key, Method.full if self.whole_model else Method.lora, self.step)

    def gate(self, store: Store) -> Path | None:
        """Return the folder with gate.json of the weights; None: the base model."""
        folder = self.weights(store)
        return folder if folder is None or self.step is not None else folder.parent
