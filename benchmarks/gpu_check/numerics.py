"""em's losses on this device: against a plain loop, against a second run, against the CPU."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from lines import Say
from train_gpu import random_model
from train_step import hand_loop, job_of, lognormal_rows, recipe
from transformers import AutoTokenizer

from em.chat.encode import Tokens
from em.config import TrainConfig
from em.models import paths
from em.runtime.events import Emitter
from em.store.layout import TRAIN_LOG
from em.training.base_model import Base
from em.training.stage import fit

ROWS, PER_STEP = 24, 8


def loss(say: Say, device: str) -> None:
    """Train three steps by em and by hand, the same rows in the same order."""
    shape = "0.5b" if device == "cuda" else "tiny"
    for dtype, goal in (("float32", 1e-5), ("bfloat16", 2e-3)):
        base, rows = base_and_rows(shape, device, dtype)
        config = recipe(per_device_train_batch_size=PER_STEP, max_length=1024, tokens_per_micro_batch=1024)
        own = em_losses(base, rows, config, dtype)
        plain = [step[0] for step in hand_loop(base.model, rows, config, device, dtype == "bfloat16")]
        apart = difference(own, plain) if dtype == "float32" else difference(own[:1], plain[:1])
        say(f"{dtype}_against_plain_loop", f"{apart:.2g}", apart <= goal)
    again = em_losses(base, rows, config, dtype)
    apart = difference(own, again)
    say("same_run_twice", "bit-equal" if own == again else f"{apart:.2g}", apart <= 2e-2)
    config.gradient_checkpointing = True
    apart = difference(em_losses(base, rows, config, dtype)[:1], plain[:1])
    say("recomputed_against_plain_loop", f"{apart:.2g}", apart <= 2e-3)


def cpu_agrees(say: Say, device: str) -> None:
    """Train the same small model in float32 here and on the CPU."""
    config = recipe(per_device_train_batch_size=PER_STEP, max_length=256, tokens_per_micro_batch=256)
    base, rows = base_and_rows("tiny", "cpu", "float32")
    plain = [step[0] for step in hand_loop(base.model, rows, config)]
    base, rows = base_and_rows("tiny", "cpu", "float32")
    base.model.to(device)
    apart = difference(em_losses(base, rows, config, "float32"), plain)
    say("losses_against_the_cpu", f"{apart:.2g}", apart <= 2e-2)


def base_and_rows(shape: str, device: str, dtype: str) -> tuple[Base, list[Tokens]]:
    """Return a base model of random weights and rows for it."""
    base = Base.of(random_model(shape, device), AutoTokenizer.from_pretrained(paths.model_path("asset:tiny_random")))
    base.model.to(getattr(torch, dtype))
    base.model.config._name_or_path = "random"
    longest = 1024 if shape != "tiny" else 128
    return base, lognormal_rows(ROWS, base.model.config.vocab_size, longest // 3, longest=longest)


def em_losses(base: Base, rows: list[Tokens], config: TrainConfig, dtype: str) -> list[float]:
    """Return the loss of each step, as em's trainer logs it."""
    with tempfile.TemporaryDirectory() as folder:
        fit(base, job_of(config, dtype), rows, Path(folder), Emitter(lambda line: None))
        return [json.loads(line)["loss"] for line in (Path(folder) / TRAIN_LOG).read_text().splitlines()]


def difference(first: list[float], second: list[float]) -> float:
    """Return the largest relative difference."""
    return max(abs(a - b) / abs(b) for a, b in zip(first, second, strict=True))
