"""Load the base model and make its trainable form: LoRA over it, LoRA over it in 4 bits, or all its weights."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from em.config import TrainConfig
from em.config.train import Method
from em.models import bfloat16, paths
from em.training import cpu_attention

FALLBACK_OPTIM = "adamw_torch_fused"


@dataclass
class Base:
    """A base model in memory. `trainable` lends it to one run at a time and then restores it."""

    model: Any
    tokenizer: Any
    method: Method
    """Method it was loaded for. LoRA: in the model's dtype; full finetuning: float32; QLoRA: 4 bits."""

    @classmethod
    def load(cls, path: str, revision: str | None, dtype: str, method: Method = Method.lora) -> Base:
        """Load model and tokenizer. Raise RuntimeError if `method` cannot run on this machine."""
        tokenizer = paths.tokenizer(path, revision)
        # full: a bfloat16 weight would lose an update of 1e-5; autocast still computes in bfloat16
        options: dict[str, Any] = {"dtype": torch.float32 if method == Method.full else getattr(torch, dtype)}
        if method == Method.qlora:
            require_four_bits()
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=getattr(torch, dtype),
            )
        if torch.cuda.is_available() and not _sharded():  # FSDP places the weights itself
            options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", 0))}
        model = AutoModelForCausalLM.from_pretrained(path, revision=revision, **options)
        if method == Method.qlora:
            _keep_differentiable(model)
        return cls.of(model, tokenizer, method)

    @classmethod
    def of(cls, model: Any, tokenizer: Any, method: Method = Method.lora) -> Base:
        """Return a base from a model in memory, e.g. one with random weights."""
        cpu_attention.register()
        bfloat16.prepare_cpu()
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.use_cache = False
        return cls(model, tokenizer, method)

    @contextmanager
    def trainable(self, config: TrainConfig) -> Iterator[Any]:
        """Yield the model of one run: the base with adapters (initialised from torch's global seed), or the base.

        Afterwards the base is as before, unless the run has used it up (`spent`).
        """
        if self.method == Method.full:
            yield self.model
            return
        model = get_peft_model(self.model, lora(config))  # adapters are float32 for any dtype of the base
        try:
            check_adapted(model, config)
            yield model
        finally:
            if not self.spent:
                self.model = model.unload()
                self.model.__dict__.pop("forward", None)  # TRL wraps it once per run

    @property
    def spent(self) -> bool:
        """Whether a run uses up the base: it trains the weights themselves, or FSDP shards them."""
        return self.method == Method.full or _sharded()


def lora(config: TrainConfig) -> LoraConfig:
    """Return PEFT's configuration of the adapter."""
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        use_rslora=config.use_rslora,
        target_modules=sorted(config.target_modules),
        layers_to_transform=config.layers_to_transform,
        task_type="CAUSAL_LM",
    )


def check_adapted(model: PeftModel, config: TrainConfig) -> None:
    """Raise ValueError if a module or layer of the config has no adapter: PEFT does not report those it cannot find."""
    names = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    absent = [t for t in config.target_modules if not any(n.split(".")[-1] == t for n in names)]
    if absent:
        raise ValueError(f"train.target_modules {', '.join(absent)}: the model has no such module")
    wanted = set(config.layers_to_transform or [])
    found = {int(part) for name in names for part in name.split(".") if part.isdigit()}
    if lost := sorted(wanted - found):
        layers = model.get_base_model().config.get_text_config().num_hidden_layers
        raise ValueError(f"train.layers_to_transform {lost}: the model has layers 0 to {layers - 1}")


def require_four_bits() -> None:
    """Raise RuntimeError unless bitsandbytes is installed; it can hold a model in 4 bits on a CPU too."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RuntimeError("train.method=qlora needs bitsandbytes: pip install bitsandbytes, or train.method=lora")


def _keep_differentiable(model: Any) -> None:
    """Stop bitsandbytes from repacking 4-bit weights for inference on a CPU."""
    # It repacks a weight at its first evaluation, and the gradient through a repacked weight is wrong: every run after
    # the first gate record would train on noise.
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def usable_optim(wanted: str) -> str:
    """Return `wanted`, or plain AdamW in place of an 8-bit optimiser without a GPU or bitsandbytes."""
    eight_bit = "8bit" in wanted
    able = torch.cuda.is_available() and importlib.util.find_spec("bitsandbytes") is not None
    return FALLBACK_OPTIM if eight_bit and not able else wanted


def _sharded() -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
