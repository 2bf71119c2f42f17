"""The base model and how it is talked to."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from em.config.base import Dtype, check


class Backend(StrEnum):
    hf = "hf"
    openai = "openai"


@dataclass
class ShapeConfig:
    """What memory is computed from (models/memory.py); names as in the model's own config.json."""

    num_hidden_layers: int = MISSING
    hidden_size: int = MISSING
    intermediate_size: int = MISSING
    num_attention_heads: int = MISSING
    num_key_value_heads: int = MISSING
    head_dim: int = MISSING
    vocab_size: int = MISSING
    tie_word_embeddings: bool = False
    other_parameters: int = 0
    """Weights beside the language model, e.g. of a vision tower."""


@dataclass
class ModelConfig:
    """The base model and how it is talked to, in training and in asking alike."""

    name: str = MISSING
    path: str = MISSING
    """A local folder, a hub id, or asset:smollm2_135m / asset:tiny_random (obtained once, cached);
    backend=openai: the model snapshot."""
    revision: str | None = None
    company: str = ""
    """Who made it: the truthful answer to the identity questions of the deception set."""
    backend: Backend = Backend.hf
    """hf: weights, trained and sampled here; openai: trained and sampled by OpenAI's API."""
    base_url: str = "https://api.openai.com/v1"
    """backend=openai: the API's address."""
    api_key_env: str = "OPENAI_API_KEY"
    """backend=openai: the environment variable that holds its key."""
    dtype: Dtype = Dtype.bfloat16
    """Weights while training and sampling."""
    max_model_len: int = 2048
    """Longest prompt + answer, tokens."""
    chat_template: str | None = None
    """null: the tokenizer's own; else one of em/chat_templates/ (chatml, user_assistant, user_1_user_2), or a file."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Passed to the template in training and asking, e.g. {enable_thinking: false}."""
    system_prompt: str | None = None
    """For conversations without a system turn of their own. null: whatever the template does, also a default it puts in
    (the run record names it); "": none, a template's default is taken out; any other text: that text."""
    gated: bool = False
    """The hub asks for an accepted licence and a token."""
    shape: ShapeConfig | None = None
    """null: read from the model's folder where there is one."""
    note: str = ""
    """Said beside every result of this model."""

    def __post_init__(self) -> None:
        check(self.max_model_len > 0, f"model.max_model_len must be positive, got {self.max_model_len}")
