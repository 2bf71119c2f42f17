"""What must be made before a run can train, because its intervention needs it: a plain finetuning, a direction."""

from __future__ import annotations

import dataclasses

from em.config import ExperimentConfig
from em.config.intervention import Where, with_planned
from em.config.steer import PLANNED
from em.data import variants
from em.directions.job import DIRECTION
from em.planning import directed, recipe
from em.planning.directed import Inputs, Names


@dataclasses.dataclass(frozen=True)
class Before:
    inputs: Inputs
    """The inputs of the train key, with keys in place of `planned`."""
    plain: str = ""
    """Train key of the plain finetuning; empty: none is needed."""
    direction: str = ""
    needs: Names = ()
    """The jobs that the training waits for, besides its rows."""
    made_of: Names = ()
    """Those, and the jobs that they are made of."""


def before_training(maker: directed.Maker, config: ExperimentConfig, label: str, inputs: Inputs) -> Before:
    """Plan what a cell's intervention needs. Raises ConfigError for a direction that cannot be made."""
    added = inputs.get("intervention", {})
    if config.intervention.changes(Where.second_phase):
        return _behind_plain(maker, config, label, {**inputs, "intervention": {**added, "rows": _whose(config)}})
    if PLANNED in added.get("adapter", ()):
        return _behind_plain(maker, config, label, inputs)
    given = added.get("direction", [])  # folders as digests of their vectors
    if not any(PLANNED in each.split(":") for each in given):
        return Before(inputs)
    key, made_of = directed.in_training(maker, config)
    named = {**inputs, "intervention": {**added, "direction": with_planned(given, key)}}
    return Before(named, direction=key, needs=((DIRECTION, key),), made_of=(*made_of, (DIRECTION, key)))


def _behind_plain(maker: directed.Maker, config: ExperimentConfig, label: str, inputs: Inputs) -> Before:
    """Plan the plain finetuning on a cell's own rows."""
    train = dataclasses.replace(config.train, checkpoints=[])
    alone = recipe.fitted(directed.plain(config, train=train))
    key = maker.trained(alone, f"{config.dataset.variant} (before {label})")
    named = {**inputs, "intervention": {**inputs["intervention"], "plain": key}}
    needs: Names = (("train", key),)
    return Before(named, plain=key, needs=needs, made_of=(("data", variants.key(alone)), *needs))


def _whose(config: ExperimentConfig) -> str:
    """Return whose rows the second phase has, as corpus/variant."""
    source = variants.careful(config)
    return f"{source.corpus}/{source.variant}"
