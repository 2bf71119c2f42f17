"""The answers to sample from one model, as the planner passes them to the sample stage. Imports no heavy library."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from em.chat.render import Options
from em.config import Backend, Engine, ModelConfig, SampleConfig, TriggerConfig
from em.config.train import Method
from em.directions.job import UNCHANGED, Changes, adapter_folder
from em.records import Message, Question
from em.store import Store, layout


@dataclass(frozen=True, kw_only=True)
class SampleJob:
    """Answers lo to hi - 1 to every question of one set, from one model."""

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
    """As configured. The worker finds the folder of `path` on its own machine."""
    max_lora_rank: int
    """Rank of the adapter, 0 for the base model. An engine is built for the largest rank of its batch."""
    inputs: dict[str, Any]
    """The fields that the key is made of; the manifest records them."""
    target_modules: tuple[str, ...] = ()
    """Names of the modules that the adapter adapts; empty for the base model. An engine serves those of its batch."""
    chat: Options = field(default_factory=Options)
    """How conversations are rendered; empty: the tokenizer's defaults."""
    step: int | None = None
    """Training step of a kept checkpoint; None: the finished run."""
    whole_model: bool = False
    """The train stage made a whole model, which needs its own engine, instead of an adapter."""
    context: tuple[Message, ...] = ()
    """Turns shown before each question (questions.k_shot). They are in context.jsonl, not in the rows."""
    choices: tuple[str, ...] = ()
    """Question sets whose options are scored by log-probability instead of sampled."""
    changes: Changes = UNCHANGED
    """What is changed in the model while it answers."""

    @property
    def at_openai(self) -> bool:
        return self.model.backend == Backend.openai

    @property
    def served_elsewhere(self) -> bool:
        """Whether another machine samples: OpenAI's, or a vLLM server that is already running."""
        engine = self.sample.engine
        return engine == Engine.openai or (engine == Engine.vllm_server and self.sample.base_url is not None)

    def weights(self, store: Store) -> Path | None:
        """Return the folder to serve; None: the base model."""
        if self.changes.adapter:
            return adapter_folder(store, self.changes.adapter)
        if self.adapter_key is None:
            return None
        return layout.weights(store, self.adapter_key, Method.full if self.whole_model else Method.lora, self.step)

    def gate(self, store: Store) -> Path | None:
        """Return the folder with gate.json of the weights; None: the base model."""
        folder = self.weights(store)
        if folder is None or (self.step is not None and not self.changes.adapter):
            return folder
        return folder.parent
