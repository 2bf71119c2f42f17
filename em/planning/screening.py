"""What a screening needs: the rows of datasets, the untouched model's own answers to their prompts, a direction.

The door: plan. Nothing is trained on the rows. The rows and the own answers are jobs like any, so they are stored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from em.chat.render import Options
from em.config import ExperimentConfig, QuestionsConfig, TriggerConfig
from em.config.direction import OF_ORGANISM, DirectionKind
from em.data import variants
from em.data.job import DataJob
from em.directions.job import DIRECTION
from em.errors import ConfigError
from em.planning import cells, directed, keys, recipe
from em.planning.jobs import Job, Plan, Subject
from em.planning.plan import Planner
from em.records import Question
from em.store import Store

GROUP = "rows"
"""Question set of the rows' prompts."""


@dataclass(frozen=True, kw_only=True)
class Screened:
    """One dataset to screen."""

    label: str
    config: ExperimentConfig
    data: str
    """Data key of its rows."""
    own: tuple[str, ...]
    """Sample keys of the untouched model's own answers; empty: they are not asked for."""
    direction: str
    """Direction key."""
    chat: Options
    """How the rows are rendered."""


def plan(
    configs: Sequence[ExperimentConfig], store: Store, block: int | None, own: bool
) -> tuple[Plan, list[Screened]]:
    """Return the jobs of a screening, and one entry per config. `own`: whether the model's own answers are sampled.

    Raises ConfigError for a config without a dataset or direction, for a direction made of the dataset's own finetuned
    model, and for a block that the model does not have.
    """
    configs = [recipe.fitted(config) for config in configs]
    planner, found = Planner(store), []
    labels = cells.cell_labels(configs)
    for number, (config, label) in enumerate(zip(configs, labels, strict=True)):
        _check(config, block)
        one, requires = _screened(planner, config, label, own)
        found.append(one)
        planner.plan.cells.append(Subject(f"rows-{number}", label, config, None, (), requires=requires))
    return planner.plan, found


def _check(config: ExperimentConfig, block: int | None) -> None:
    variant, options = config.dataset.variant, config.direction
    if not config.dataset.trained:
        raise ConfigError("dataset=none has no rows to screen: give a dataset, e.g. dataset=risky_advice")
    if options.kind == DirectionKind.none:
        raise ConfigError(
            "a screening needs a direction: direction=stored direction.path=FOLDER, or one that is made, e.g. "
            "direction=contrast direction.plus=risky_advice direction.minus=careful_advice"
        )
    if options.kind in OF_ORGANISM and (
        options.organism is None or directed.dataset_named(options.organism) == config.dataset
    ):
        raise ConfigError(
            f"direction={options.kind.value} is made of a finetuned model's answers, and a screening comes before "
            f"{variant} is trained on: name another dataset, direction.organism=NAME"
        )
    directed.check(config)
    depth = recipe.layer_count(config.model)
    if block is not None and (block < 0 or (depth is not None and block >= depth)):
        raise ConfigError(f"--block {block}: model={config.model.name} has blocks 0 to {(depth or 0) - 1}")


def _screened(
    planner: Planner, config: ExperimentConfig, label: str, own: bool
) -> tuple[Screened, tuple[tuple[str, str], ...]]:
    found = directed.add(planner, dataclasses.replace(config, sample=config.sample.unchanged()), label)
    direction = next(key for stage, key in reversed(found.requires) if stage == DIRECTION)
    built = DataJob(key=variants.key(config), config=config, inputs=variants.inputs(config))
    planner.add_job(Job("data", built.key, label, "data", built))
    samples: tuple[str, ...] = ()
    if own:
        part = planner.asked_of_base(_asking(config), f"{config.model.name} on the rows of {label}", _prompts(config))
        samples = part.samples
    one = Screened(
        label=label,
        config=config,
        data=built.key,
        own=samples,
        direction=direction,
        chat=keys.chat_options(config),
    )
    mine = (("data", built.key), *(("sample", key) for key in samples))
    return one, tuple(dict.fromkeys((*found.requires, *mine)))


def _asking(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config that asks the untouched model the prompts of the rows, rendered as in training."""
    sample = dataclasses.replace(config.sample.unchanged(), system_prompt=None, chat_template_kwargs={}, n=1)
    plain = {"sample": sample, "trigger": TriggerConfig(), "questions": QuestionsConfig()}
    return dataclasses.replace(config, **plain)  # type: ignore[arg-type]  # fields of three types


def _prompts(config: ExperimentConfig) -> list[Question]:
    return [Question(row.id, GROUP, row.last_answer()[0], []) for row in variants.build(config)]
