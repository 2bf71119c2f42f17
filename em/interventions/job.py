"""The job of scoring careful rows under two models, as the planner passes it. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field

from em.chat.render import Options
from em.config import ModelConfig
from em.directions.job import Weights
from em.store.jsonl import Row


@dataclass(frozen=True, kw_only=True)
class ScoreJob:
    """All careful rows of a cell, to be scored by the untouched model and the plainly finetuned one."""

    key: str
    label: str
    model: ModelConfig
    data: str
    """Data key of the careful rows."""
    finetuned: Weights
    max_length: int
    """A row with more tokens would be cut in training; it gets no score."""
    extra_assistant_turn: bool
    inputs: Row
    chat: Options = field(default_factory=Options)
    """How rows are rendered, as in training."""
