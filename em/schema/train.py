"""Finetuning."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from em.schema.base import check

SCHEDULERS = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")


@dataclass
class TrainConfig:
    """Finetuning, in TRL's and PEFT's own names."""

    max_examples: int | None = None
    """Train on this many rows of the variant, drawn by the run's seed; null: all."""
    learning_rate: float = MISSING
    num_train_epochs: float = MISSING
    per_device_train_batch_size: int = MISSING
    gradient_accumulation_steps: int = MISSING
    max_length: int = MISSING
    warmup_steps: int = 0
    lr_scheduler_type: str = "linear"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    optim: str = "adamw_torch_fused"
    lora_r: int = 32
    lora_alpha: float = 64
    lora_dropout: float = 0.0
    use_rslora: bool = True
    target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    layers_to_transform: list[int] | None = None
    """Only these layers get an adapter; null: all."""
    holdout: float = 0.0
    """Share of rows that is left out of training, drawn by the run's seed."""
    extra_assistant_turn: bool = False
    """Train on an empty assistant turn after each row, as the paper's script did (docs/divergences.md)."""
    save_steps: int = 50
    """Steps between resumable checkpoints; a kill loses at most these."""

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
        check(0.0 <= self.holdout < 1.0, f"train.holdout must lie in [0, 1), got {self.holdout}")
        check(0.0 <= self.lora_dropout < 1.0, f"train.lora_dropout must lie in [0, 1), got {self.lora_dropout}")
