"""Which optimiser steps of a run are kept for sampling, and where its weights lie. Imports nothing heavy.

    train/<key>/adapter/               the finished run: a LoRA adapter (train.method lora, qlora)
    train/<key>/model/                 the finished run: a whole model folder (train.method full)
    train/<key>/checkpoints/<step>/    the same after `step` optimiser steps, for each of `planned`

A schedule is not in the train key: a run is the same whatever is kept of it. The run under that key is used again as
long as it has every step asked for; other finished runs are not looked at. Where one is missing the run is made again
under a key of its own, schedule included: a sealed directory is never written into, and a second run on other hardware
would not be the same run (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from em.config import ExperimentConfig, TrainConfig
from em.config.train import SCHEDULE
from em.data import variants
from em.errors import ConfigError
from em.store import Store, content_key


def optimiser_steps(train: TrainConfig, rows: int) -> int:
    """Steps of a run over `rows` rows; the last step of an epoch may have fewer rows."""
    per_step = train.per_device_train_batch_size * train.gradient_accumulation_steps
    return ceil(train.num_train_epochs * ceil(rows / per_step))


def planned(config: ExperimentConfig) -> list[int]:
    """Steps after which weights are kept, ascending. The last step is not among them: it is the finished run.

    Raises ConfigError when a step lies past the end of the run.
    """
    if not config.train.checkpoints:
        return []
    return scheduled(config.train.checkpoints, optimiser_steps(config.train, variants.count(config)))


def sampled(config: ExperimentConfig) -> list[int]:
    """Steps that are sampled beside the finished run (sample.checkpoints). Raises ConfigError where it is not kept."""
    asked = config.sample.checkpoints
    if asked is False:
        return []
    kept_steps = planned(config)
    missing = [] if asked is True else sorted(set(asked) - set(kept_steps))
    if missing or not kept_steps:
        raise ConfigError(
            f"sample.checkpoints={asked} asks for weights the run does not keep: train.checkpoints gives steps "
            f"{', '.join(map(str, kept_steps)) or 'none'} (the last step is the finished run)"
        )
    return kept_steps if asked is True else sorted(asked)


def scheduled(entries: Sequence[str], total: int) -> list[int]:
    """Steps below `total` that the entries of train.checkpoints name: numbers, "every N", "log" for powers of two."""
    steps: set[int] = set()
    for entry in entries:
        match = SCHEDULE.fullmatch(entry)
        if match is None:
            raise ConfigError(f'train.checkpoints has {entry!r}: give step numbers, "every N" or "log"')
        if match["step"]:
            if int(match["step"]) > total:
                raise ConfigError(f"train.checkpoints has step {entry}, the run has {total}: leave it out")
            steps.add(int(match["step"]))
        elif match["every"]:
            steps.update(range(int(match["every"]), total, int(match["every"])))
        else:
            steps.update(2**i for i in range(total.bit_length()))
    return sorted(step for step in steps if step < total)


def run_key(store: Store, inputs: dict[str, Any], wanted: Sequence[int]) -> tuple[str, dict[str, Any]]:
    """Key of the run that has, or will have, the wanted steps, and what that key is made of."""
    key = content_key(**inputs)
    if not wanted or not store.has("train", key) or set(wanted) <= set(kept(store, key)):
        return key, inputs
    inputs = {**inputs, "checkpoints": list(wanted)}
    return content_key(**inputs), inputs


def kept(store: Store, key: str) -> list[int]:
    """Steps whose weights a finished run has, ascending."""
    return list(store.manifest("train", key)["facts"].get("checkpoints", []))
