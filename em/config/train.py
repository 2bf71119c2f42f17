"""Finetuning: TrainConfig, and which of its fields other stages may ignore."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from em.config.base import check
from em.errors import ConfigError

SCHEDULERS = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")
HOW_ONLY = (
    "save_steps",
    "checkpoints",
    "padding_free",
    "tokens_per_micro_batch",
    "gradient_checkpointing",
    "attn_implementation",
    "num_processes",
    "accelerate_config",
    "deterministic",
)
"""Fields that change how a run is computed or which checkpoints are kept, but not its result (up to rounding). They are
not in the train key. See planning/checkpoints for a changed schedule of checkpoints."""
OPENAI_ONLY = ("learning_rate_multiplier", "max_dollars", "price_per_million_tokens")
"""Fields that only finetuning by OpenAI's API reads."""
LORA_ONLY = ("lora_r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "layers_to_transform")
"""Fields that full finetuning does not read."""
UPPER_HALF = "upper_half"
SCHEDULE = re.compile(r"(?P<step>[1-9]\d*)|every (?P<every>[1-9]\d*)|log")


AUTO = "auto"


class Method(StrEnum):
    lora = "lora"
    full = "full"
    qlora = "qlora"


@dataclass
class TrainConfig:
    """Finetuning. Fields have the names of TRL and PEFT."""

    max_examples: int | None = None
    """Train on this many rows of the variant (see dataset.subset); null: all."""
    learning_rate: float = MISSING
    num_train_epochs: float = MISSING
    per_device_train_batch_size: int = MISSING
    """Rows per micro-batch, unless tokens_per_micro_batch sets its size."""
    gradient_accumulation_steps: int = MISSING
    """Times per_device_train_batch_size = rows per optimiser step, summed over all processes of the run."""
    max_length: int = MISSING
    method: Method = Method.lora
    """lora; full: train every weight, the result is a whole model; qlora: LoRA on a base model in 4 bits."""
    warmup_steps: int = 0
    lr_scheduler_type: str = "linear"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    optim: str = "adamw_torch_fused"
    """transformers' name. An 8-bit optimiser needs bitsandbytes and a GPU, without FSDP; elsewhere em uses
    adamw_torch_fused and warns."""
    lora_r: int = 32
    lora_alpha: float = 64
    lora_dropout: float = 0.0
    use_rslora: bool = True
    target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    layers_to_transform: Any = None
    """Layers that get an adapter: a list; null: all; upper_half: those of the model's upper half."""
    holdout: float = 0.0
    """Share of the rows left out of training, selected by the run's seed."""
    extra_assistant_turn: bool = False
    """Train also on an empty assistant turn after each row, as the paper's script did (docs/divergences.md)."""
    checkpoints: list[str] = field(default_factory=list)
    """Optimiser steps whose weights are kept for sampling: numbers, "every 10", or "log" (1, 2, 4, 8, ...)."""
    choices: list[str] = field(default_factory=list)
    """Sets as in questions.choices. Training records the log-probabilities of their options at steps 1-9, every tenth
    step and the last."""
    save_steps: int = 50
    """Steps between resumable checkpoints: a killed run loses at most this many."""
    padding_free: bool = True
    """Concatenate the rows of a micro-batch, without attention between rows; false: pad to the longest row."""
    tokens_per_micro_batch: int | None = None
    """Most tokens per micro-batch, with padding_free; the rows of an optimiser step stay the same. null: count rows."""
    gradient_checkpointing: Any = False
    """true: recompute activations in the backward pass: less memory, a third more computation. auto: only if the run
    would not fit without it (em/models/memory.py)."""
    attn_implementation: str | None = None
    """transformers' name; null: sdpa on a GPU, one row at a time on a CPU."""
    learning_rate_multiplier: float | None = None
    """model.backend=openai: multiplies OpenAI's own learning rate; null: OpenAI chooses."""
    max_dollars: float | None = None
    """model.backend=openai: required; a run that would cost more does not start."""
    price_per_million_tokens: float | None = None
    """model.backend=openai: dollars per million trained tokens; null: the table em/api/prices.yaml."""
    num_processes: int = 1
    """Processes of one run, one GPU each, started by Accelerate; 1: the stage's own process."""
    accelerate_config: str | None = None
    """Accelerate's config file for num_processes > 1, e.g. launch/accelerate/fsdp.yaml; null: data-parallel."""
    deterministic: bool = False
    """On a GPU, use only operations whose result is the same each time; slower. A CPU's are anyway."""

    def __post_init__(self) -> None:
        for name in (
            "learning_rate",
            "num_train_epochs",
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "max_length",
            "lora_r",
            "lora_alpha",
            "save_steps",
            "num_processes",
        ):
            value = getattr(self, name)
            check(value > 0, f"train.{name} must be positive, got {value}")
        check(
            self.max_examples is None or self.max_examples > 0,
            f"train.max_examples must be positive or null, got {self.max_examples}",
        )
        check(self.warmup_steps >= 0, f"train.warmup_steps must be >= 0, got {self.warmup_steps}")
        check(
            self.lr_scheduler_type in SCHEDULERS,
            f"train.lr_scheduler_type {self.lr_scheduler_type!r} is not one of {', '.join(SCHEDULERS)}",
        )
        check(0.0 <= self.holdout < 1.0, f"train.holdout must be in [0, 1), got {self.holdout}")
        check(0.0 <= self.lora_dropout < 1.0, f"train.lora_dropout must be in [0, 1), got {self.lora_dropout}")
        for entry in self.checkpoints:
            check(
                SCHEDULE.fullmatch(entry) is not None,
                f'train.checkpoints has {entry!r}: give step numbers, "every N" or "log"',
            )
        self._check_layers()
        self._check_how()

    def _check_layers(self) -> None:
        given = self.layers_to_transform
        listed = isinstance(given, list) and all(isinstance(n, int) and n >= 0 and n is not True for n in given)
        check(
            given is None or given == UPPER_HALF or (listed and bool(given)),
            f"train.layers_to_transform must be a list of layers from 0, {UPPER_HALF} or null, got {given!r}",
        )

    def _check_how(self) -> None:
        check(
            self.gradient_checkpointing in (True, False, AUTO),
            f"train.gradient_checkpointing {self.gradient_checkpointing!r} is not true, false or {AUTO}",
        )
        if self.tokens_per_micro_batch is not None:
            check(
                self.tokens_per_micro_batch >= self.max_length,
                f"train.tokens_per_micro_batch {self.tokens_per_micro_batch} must be at least train.max_length "
                f"{self.max_length}, so that the longest row fits",
            )
            check(self.padding_free, "train.tokens_per_micro_batch needs train.padding_free=true")
        check(
            self.accelerate_config is None or self.num_processes > 1,
            "train.accelerate_config needs several processes: raise train.num_processes, or set it to null",
        )
        rows = self.per_device_train_batch_size * self.gradient_accumulation_steps
        if rows < self.num_processes:
            raise ConfigError(
                f"train.num_processes={self.num_processes}, but an optimiser step has only {rows} rows "
                f"(per_device_train_batch_size x gradient_accumulation_steps): use at most {rows}"
            )
