"""What a run is made of, because of its intervention: a plain finetuning, a direction, judged answers of its steps."""

from __future__ import annotations

import dataclasses

from em.config import ExperimentConfig, TrainConfig
from em.config.intervention import Where, with_planned
from em.config.misalignment import Rule
from em.config.steer import PLANNED
from em.data import beside, variants
from em.directions.job import DIRECTION
from em.errors import ConfigError
from em.planning import checkpoints, directed, recipe
from em.planning.directed import Inputs, Names
from em.planning.jobs import Job
from em.questions.in_domain import BEHAVIOURS
from em.training.job import KeptStep, Stop


@dataclasses.dataclass(frozen=True)
class Before:
    inputs: Inputs
    """The inputs of the train key, with keys in place of `planned`."""
    plain: str = ""
    """Train key of the plain finetuning; empty: none is needed."""
    direction: str = ""
    stop: Stop | None = None
    beside: str = ""
    """Data key of the rows that the method reads beside the training rows."""
    needs: Names = ()
    """The jobs that the training waits for, besides its rows."""
    made_of: Names = ()
    """Those, and the jobs that they are made of."""


def before_training(maker: directed.Maker, config: ExperimentConfig, label: str, inputs: Inputs) -> Before:
    """Plan what a cell's intervention needs. Raises ConfigError for a direction that cannot be made."""
    added = inputs.get("intervention", {})
    if config.intervention.changes(Where.stopping):
        return _stopped(maker, config, label, inputs)
    if config.intervention.changes(Where.second_phase):
        return _behind_plain(maker, config, label, {**inputs, "intervention": {**added, "rows": _whose(config)}})
    if rows := beside.job(config):
        maker.add_job(Job("data", rows.key, f"{config.intervention.beside} (beside {label})", "data", rows))
        named = {**inputs, "intervention": {**added, "beside": rows.key}}
        needs: Names = (("data", rows.key),)
        return Before(named, beside=rows.key, needs=needs, made_of=needs)
    if PLANNED in added.get("adapter", ()):
        return _behind_plain(maker, config, label, inputs)
    given = added.get("direction", [])  # folders as digests of their vectors
    if not any(PLANNED in each.split(":") for each in given):
        return Before(inputs)
    key, made_of = directed.in_training(maker, config)
    named = {**inputs, "intervention": {**added, "direction": with_planned(given, key)}}
    return Before(named, direction=key, needs=((DIRECTION, key),), made_of=(*made_of, (DIRECTION, key)))


def _behind_plain(maker: directed.Maker, config: ExperimentConfig, label: str, inputs: Inputs) -> Before:
    key, made_of = plain_run(maker, config, label)
    named = {**inputs, "intervention": {**inputs["intervention"], "plain": key}}
    return Before(named, plain=key, needs=(("train", key),), made_of=made_of)


def plain_run(maker: directed.Maker, config: ExperimentConfig, label: str) -> tuple[str, Names]:
    """Plan the plain finetuning on a cell's own rows. Return its train key, and the jobs of which it is one."""
    train = dataclasses.replace(config.train, checkpoints=[])
    alone = recipe.fitted(directed.plain(config, train=train))
    key = maker.trained(alone, f"{config.dataset.variant} (before {label})")
    return key, (("data", variants.key(alone)), ("train", key))


def _stopped(maker: directed.Maker, config: ExperimentConfig, label: str, inputs: Inputs) -> Before:
    """Plan the plain finetuning with its kept steps, and the judged in-domain answers of each."""
    alone = recipe.fitted(directed.plain(config))
    asked, steps = _in_domain(config), checkpoints.planned(alone)
    if not steps:
        raise ConfigError(
            f"intervention=early_stop chooses among the kept steps of plain finetuning and train.checkpoints="
            f"{config.train.checkpoints} keeps none before the last: give steps, e.g. train.checkpoints='[every 10]'"
        )
    key = maker.trained(alone, f"{config.dataset.variant} (before {label})")
    kept: list[KeptStep] = []
    for step in (*steps, None):
        said = f"{config.dataset.variant} {'last step' if step is None else f'step {step}'} (for the early stop)"
        (part,) = maker.asked(alone, said, key, sets=[asked], judged=True, step=step)
        kept.append(KeptStep(step=step, samples=part.samples, judgements=part.judgements))
    stop = Stop(
        asked=asked,
        asked_with=alone.trigger.asked_with[0],
        min_coverage=Rule.of(config).min_coverage,
        steps=tuple(kept),
    )
    judged: Names = tuple(("judge", k) for one in kept for k in one.judgements)
    answers: Names = tuple(("sample", k) for one in kept for k in one.samples)
    curve = {"asked_with": stop.asked_with, "min_coverage": stop.min_coverage}
    curve |= {"steps": [[one.step, list(one.samples), list(one.judgements)] for one in kept]}
    named = {**inputs, "intervention": {**inputs["intervention"], "plain": key, "curve": curve}}
    needs: Names = (("train", key), *answers, *judged)
    return Before(named, plain=key, stop=stop, needs=needs, made_of=(("data", variants.key(alone)), *needs))


def _in_domain(config: ExperimentConfig) -> str:
    """Return the in-domain question set of a cell. Raises ConfigError if its dataset has none."""
    domain = config.dataset.domain
    if domain not in BEHAVIOURS:
        raise ConfigError(
            f"intervention=early_stop stops at a share of the in-domain rate and dataset.variant="
            f"{config.dataset.variant} has dataset.domain={domain or 'null'}: its domain must be one of "
            f"{', '.join(BEHAVIOURS)}"
        )
    return domain


def in_one_process(train: TrainConfig) -> TrainConfig:
    """Return the recipe for a job that only copies what others have trained."""
    return dataclasses.replace(train, num_processes=1, accelerate_config=None)


def _whose(config: ExperimentConfig) -> str:
    """Return whose rows the second phase has, as corpus/variant."""
    source = variants.careful(config)
    return f"{source.corpus}/{source.variant}"
