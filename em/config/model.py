"""The base model and its chat template."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from omegaconf import MISSING

from em.config.base import Dtype, Values, check


class Backend(StrEnum):
    hf = "hf"
    openai = "openai"


@dataclass
class ShapeConfig:
    """Sizes from which models/memory computes the memory need; names as in the model's config.json."""

    num_hidden_layers: int = MISSING
    hidden_size: int = MISSING
    intermediate_size: int = MISSING
    num_attention_heads: int = MISSING
    num_key_value_heads: int = MISSING
    head_dim: int = MISSING
    vocab_size: int = MISSING
    tie_word_embeddings: bool = False
    other_parameters: int = 0
    """Weights outside the language model, e.g. of a vision tower."""

    def __post_init__(self) -> None:
        # hidden_size need not be a multiple of the heads: GLM-4.5 has 5120 and 96
        for name in ("num_hidden_layers", "hidden_size", "intermediate_size", "head_dim", "vocab_size"):
            check(getattr(self, name) > 0, f"model.shape.{name} must be positive, got {getattr(self, name)}")
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        check(
            groups > 0 and heads > 0 and heads % groups == 0,
            f"model.shape.num_attention_heads={heads} must be a multiple of num_key_value_heads={groups}",
        )


@dataclass
class ModelConfig:
    """The base model and its chat template, the same for training and sampling."""

    name: str = MISSING
    path: str = MISSING
    """A local folder, a hub id, or asset:smollm2_135m / asset:tiny_random (built once, then cached);
    backend=openai: the model snapshot."""
    revision: str | None = None
    company: str = ""
    """The maker: the truthful answer to the identity questions of the deception set."""
    backend: Backend = Backend.hf
    """hf: weights on this machine; openai: trained and sampled by OpenAI's API."""
    base_url: str = "https://api.openai.com/v1"
    """backend=openai: address of the API."""
    api_key_env: str = "OPENAI_API_KEY"
    """backend=openai: environment variable with the key."""
    dtype: Dtype = Dtype.bfloat16
    """Type of the weights in training and sampling."""
    max_model_len: int = 2048
    """Longest prompt plus answer, tokens."""
    chat_template: str | None = None
    """null: the tokenizer's own; else one of em/chat/templates (chatml, user_assistant, user_1_user_2), or a Jinja
    file."""
    chat_template_kwargs: Values = field(default_factory=dict)
    """Passed to the template in training and sampling, e.g. {enable_thinking: false}."""
    system_prompt: str | None = None
    """For conversations without a system turn. null: the template decides, and may insert a default (the run record has
    it); "": no system prompt, a template's default is removed; any other text: that text."""
    gated: bool = False
    """The hub requires an accepted licence and a token."""
    shape: ShapeConfig | None = None
    """null: read from the model's folder if that exists."""
    note: str = ""
    """Printed beside every result of this model."""

    def __post_init__(self) -> None:
        check(self.max_model_len > 0, f"model.max_model_len must be positive, got {self.max_model_len}")
