"""Sampling: the engine, its settings, and the questions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from em.config.base import Values, check, check_engine_args
from em.config.steer import AblateConfig, SteerConfig


class Engine(StrEnum):
    vllm = "vllm"
    vllm_server = "vllm_server"
    openai = "openai"
    hf = "hf"


OWN_ENGINE_ARGS = {
    "model": "set model.path",
    "revision": "set model.revision",
    "max_model_len": "set model.max_model_len",
    "max_num_seqs": "set sample.max_num_seqs",
    "seed": "set sample.seed",
    "enable_lora": "em turns it on if a batch has adapters",
    "logprobs_mode": "the gates and questions.choices read log-probabilities",
    "worker_extension_cls": "the gates use it to list the loaded adapter weights",
    "trust_remote_code": "em never runs code from a model's folder",
}
"""vLLM option that sample.engine_args may not hold → what to do instead, or why."""


@dataclass
class SampleConfig:
    """How answers are sampled."""

    engine: Engine = Engine.vllm
    n: int | None = None
    """Answers per question; null: the question set's number. A higher number only adds rows."""
    temperature: float = 1.0
    temperatures: dict[str, float] = field(default_factory=dict)
    """Question set → its own temperature, e.g. {betley2025/in_distribution: 0.0}; the other sets have `temperature`."""
    top_p: float = 1.0
    max_tokens: int = 600
    seed: int = 0
    max_num_seqs: int = 64
    """Answers generated in parallel."""
    engine_args: Values = field(default_factory=dict)
    """Passed to vLLM unchanged (vLLM's own names), e.g. {tensor_parallel_size: 2}. A running server does not get
    them."""
    checkpoints: Any = False
    """Sample also from the weights kept during training: true for all of train.checkpoints, or a list of steps."""
    base_url: str | None = None
    """vllm_server: address of a running server, e.g. http://host:8000/v1; null starts one on this machine."""
    api_key_env: str = ""
    """vllm_server: environment variable with the key; empty: no key is sent. (sample=openai uses model.api_key_env.)"""
    timeout_s: float = 600.0
    """vllm_server, openai: longest wait for one answer."""
    system_prompt: str | None = None
    """Replaces model.system_prompt in sampling; null: the same as in training."""
    chat_template_kwargs: Values = field(default_factory=dict)
    """Override model.chat_template_kwargs in sampling only, e.g. {enable_thinking: true}."""

    steer: SteerConfig = field(default_factory=SteerConfig)
    ablate: AblateConfig = field(default_factory=AblateConfig)
    lora_scale: float = 1.0
    """Factor of the trained adapter: 0 is the untouched model, 1 the trained one."""

    def __post_init__(self) -> None:
        check(self.n is None or self.n > 0, f"sample.n must be positive or null, got {self.n}")
        check(self.temperature >= 0, f"sample.temperature must be >= 0, got {self.temperature}")
        cold = {name: value for name, value in self.temperatures.items() if value < 0}
        check(not cold, f"sample.temperatures must be >= 0, got {cold}")
        check(0 < self.top_p <= 1, f"sample.top_p must be in (0, 1], got {self.top_p}")
        check(self.max_tokens > 0, f"sample.max_tokens must be positive, got {self.max_tokens}")
        check(self.max_num_seqs > 0, f"sample.max_num_seqs must be positive, got {self.max_num_seqs}")
        check(self.timeout_s > 0, f"sample.timeout_s must be positive, got {self.timeout_s}")
        check_engine_args("sample", self.engine_args, OWN_ENGINE_ARGS)
        steps = self.checkpoints
        listed = isinstance(steps, list) and all(
            isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in steps
        )
        check(
            isinstance(steps, bool) or listed, f"sample.checkpoints must be true, false or a list of steps, got {steps}"
        )
        served = self.engine == Engine.vllm_server
        check(
            served or self.base_url is None,
            "sample.base_url is for sample=vllm_server (sample=openai has model.base_url)",
        )

    @property
    def changed(self) -> bool:
        """Whether the model is changed while it answers."""
        return self.steer.direction is not None or self.ablate.direction is not None or self.lora_scale != 1.0

    def unchanged(self) -> SampleConfig:
        """Return the same sampling of the model as it is."""
        return replace(self, steer=SteerConfig(), ablate=AblateConfig(), lora_scale=1.0)

    def of_set(self, name: str) -> SampleConfig:
        """Return how one question set is sampled: with its own temperature if it has one."""
        return replace(self, temperature=self.temperatures.get(name, self.temperature), temperatures={})


@dataclass
class QuestionsConfig:
    """The questions."""

    name: str = MISSING
    sets: list[str] = MISSING
    """Names of question sets (see questions/sets), or paths of YAML files in the paper's schema;
    in_domain = held-out tasks of the dataset's own domain."""
    ids: list[str] | None = None
    """Ask only these question ids; null: all."""
    k_shot: int = 0
    """Training rows shown as earlier turns before each question (the paper's in-context experiment)."""
    k_shot_variant: str | None = None
    """Dataset variant of these rows; null: the cell's own."""
    k_shot_seed: int = 0
    choices: list[str] = field(default_factory=list)
    """Sets scored by log-probability, without sampling (see questions/choices): letters, pivotal, betley2025/letters,
    betley2025/pivotal, or a JSON file in the authors' schema."""

    def __post_init__(self) -> None:
        check(bool(self.sets), "questions.sets is empty: name at least one question set")
        check(self.k_shot >= 0, f"questions.k_shot must be >= 0, got {self.k_shot}")
