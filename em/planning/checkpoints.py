"""Which optimiser steps of a run are kept for sampling, and where the weights of each step are.

A schedule of checkpoints is not in the train key, because it does not change the run. A finished run under that key is
used if it has every wanted step. Otherwise the run is trained again under a key that holds the schedule
(docs/decisions/store.md#checkpoint-schedules).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from em.config import ExperimentConfig, TrainConfig
from em.config.intervention import Where
from em.config.train import SCHEDULE
from em.data import second_phase, variants
from em.errors import ConfigError
from em.store import Store, content_key


def optimiser_steps(train: TrainConfig, rows: int) -> int:
    """Return the number of optimiser steps over `rows` rows. The last step of an epoch may have fewer rows."""
    per_step = train.per_device_train_batch_size * train.gradient_accumulation_steps
    return ceil(train.num_train_epochs * ceil(rows / per_step))


def planned(config: ExperimentConfig) -> list[int]:
    """Return the steps after which weights are kept, ascending. The last step is not one of them: it is the finished
    run. Of a run with a second phase, they are steps of that phase. early_stop serves one step, and keeps no other.

    Raises ConfigError if a step is past the end of the run.
    """
    if not config.train.checkpoints or not config.dataset.trained or config.intervention.changes(Where.stopping):
        return []
    rows = variants.count(second_phase.last(config))
    return scheduled(config.train.checkpoints, optimiser_steps(config.train, rows))


def sampled(config: ExperimentConfig) -> list[int]:
    """Return the checkpoints to sample (sample.checkpoints). Raises ConfigError if one is not kept."""
    asked = config.sample.checkpoints
    if asked is False or not config.dataset.trained:
        return []
    if config.intervention.changes(Where.stopping):
        raise ConfigError(
            "intervention=early_stop serves one step of plain finetuning: leave out sample.checkpoints, and ask the "
            "kept steps with intervention=none"
        )
    kept_steps = planned(config)
    missing = [] if asked is True else sorted(set(asked) - set(kept_steps))
    if missing or not kept_steps:
        raise ConfigError(
            f"sample.checkpoints={asked} asks for weights the run does not keep: train.checkpoints gives steps "
            f"{', '.join(map(str, kept_steps)) or 'none'} (the last step is the finished run)"
        )
    return kept_steps if asked is True else sorted(asked)


def scheduled(entries: Sequence[str], total: int) -> list[int]:
    """Return the steps below `total` that train.checkpoints names: numbers, "every N", "log" for powers of two."""
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
    """Return the key of the run that has, or will have, the wanted steps, and the inputs of that key."""
    key = content_key(**inputs)
    if not wanted or not store.has("train", key) or set(wanted) <= set(kept(store, key)):
        return key, inputs
    inputs = {**inputs, "checkpoints": list(wanted)}
    return content_key(**inputs), inputs


def kept(store: Store, key: str) -> list[int]:
    """Return the steps whose weights a finished run has, ascending."""
    return list(store.manifest("train", key)["facts"].get("checkpoints", []))
