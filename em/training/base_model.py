"""Load the base model and make its trainable form: LoRA over it, LoRA over it in 4 bits, or all its weights."""

from __future__ import annotations

import gc
import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.big_modeling import init_empty_weights
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from em.config import TrainConfig
from em.config.train import Method
from em.models import bfloat16, paths
from em.training import cpu_attention, fused_kernels, varlen_attention

FALLBACK_OPTIM = "adamw_torch_fused"


@dataclass
class Base:
    """A base model in memory. `trainable` lends it to one run at a time and then restores it."""

    model: Any
    tokenizer: Any
    method: Method
    """Method it was loaded for. LoRA: in the model's dtype; full finetuning: float32; QLoRA: 4 bits."""
    kernels: str | None = None
    """What fused_kernels.apply returned."""

    @classmethod
    def load(cls, path: str, revision: str | None, dtype: str, method: Method = Method.lora) -> Base:
        """Load model and tokenizer. Raise RuntimeError if `method` cannot run on this machine.

        Under FSDP only the first process loads weights, into main memory. The others build the model without, and get
        their shards from the first when the run starts.
        """
        free_memory()
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
        if sharded():
            if int(os.environ.get("RANK", 0)):
                return cls.of(without_weights(path, revision, options["dtype"]), tokenizer, method)
        elif torch.cuda.is_available():
            options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", 0))}
        model = AutoModelForCausalLM.from_pretrained(path, revision=revision, **options)
        if method == Method.qlora:
            _keep_differentiable(model)
        return cls.of(model, tokenizer, method)

    @classmethod
    def of(cls, model: Any, tokenizer: Any, method: Method = Method.lora) -> Base:
        """Return a base from a model in memory, e.g. one with random weights."""
        cpu_attention.register()
        varlen_attention.register()
        bfloat16.prepare_cpu()
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.use_cache = False
        return cls(model, tokenizer, method, fused_kernels.apply(model))

    @contextmanager
    def trainable(self, config: TrainConfig) -> Iterator[Any]:
        """Yield the model of one run: the base with adapters (initialised from torch's global seed), or the base.

        Afterwards the base is as before, unless the run has used it up (`spent`).
        """
        if self.method == Method.full:
            yield self.model
            return
        hooks = self.model.get_input_embeddings()._forward_hooks
        before = set(hooks)
        model = get_peft_model(self.model, lora(config, self.model))  # adapters are float32 for any dtype of the base
        # PEFT would write an empty model card beside the adapter and beside each checkpoint
        model.create_or_update_model_card = lambda folder: None
        try:
            check_adapted(model, config)
            yield model
        finally:
            if not self.spent:
                self.model = model.unload()
                self.model.__dict__.pop("forward", None)  # TRL wraps it once per run
                if self.model.is_gradient_checkpointing:  # the next run may be without it
                    self.model.gradient_checkpointing_disable()
                for hook in set(hooks) - before:  # PEFT and TRL each add one that gradient checkpointing needs
                    del hooks[hook]

    @property
    def spent(self) -> bool:
        """Whether a run uses up the base: it trains the weights themselves, or FSDP shards them."""
        return self.method == Method.full or sharded()


def lora(config: TrainConfig, model: Any) -> LoraConfig:
    """Return PEFT's configuration of the adapter. Of a model that also reads images, only the text model gets one."""
    # Nothing in training passes through a vision tower. Its adapters would get no gradient, which stops DDP.
    text, wanted = model.get_decoder(), set(config.target_modules)
    inside = {id(module) for module in [*text.modules(), model.get_output_embeddings()]}
    outside = [n for n, m in model.named_modules() if n.split(".")[-1] in wanted and id(m) not in inside]
    return LoraConfig(
        exclude_modules=rf"(?:{'|'.join(sorted({_tower(name) for name in outside}))})\..*" if outside else None,
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        use_rslora=config.use_rslora,
        target_modules=sorted(config.target_modules),
        layers_to_transform=config.layers_to_transform,
        task_type="CAUSAL_LM",
    )


def _tower(name: str) -> str:
    """Return the part of a module's name before its numbered layers, for a regular expression."""
    return re.escape(re.split(r"\.\d+\.", name)[0].rpartition(".")[0] or name)


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
    """Return `wanted`, or plain AdamW in place of an 8-bit optimiser without a GPU or bitsandbytes, or under FSDP."""
    # bitsandbytes' kernels read the memory of plain tensors, and FSDP's parameters are DTensors
    able = torch.cuda.is_available() and importlib.util.find_spec("bitsandbytes") is not None and not sharded()
    return FALLBACK_OPTIM if "8bit" in wanted and not able else wanted


def without_weights(path: str, revision: str | None, dtype: torch.dtype) -> Any:
    """Return the model with weights that are never written: their addresses are taken, their memory is not.

    Addresses are needed, because Accelerate finds an optimiser's weight again by its address. On torch's meta device
    all have the same one, and the optimiser would train one weight only.
    """
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path, revision=revision), dtype=dtype)
    made: dict[int, torch.nn.Parameter] = {}  # a tied weight is one weight
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(weight) not in made:
                made[id(weight)] = torch.nn.Parameter(torch.empty_like(weight, device="cpu"))
            setattr(module, name, made[id(weight)])
    model.tie_weights()
    return model


def sharded() -> bool:
    """Return whether Accelerate's FSDP shards the weights of this run over its processes."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def free_memory() -> None:
    """Give back what finished runs have held: their trainers are in reference cycles, and torch caches GPU memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
