"""What intervention.select needs before a cell's rows are there: a plain finetuning, and scores of all careful rows."""

from __future__ import annotations

import dataclasses

from em.config import Backend, ExperimentConfig
from em.config.train import Method
from em.data import beside, variants
from em.data.job import DataJob
from em.directions.job import Weights
from em.errors import ConfigError
from em.interventions.job import ScoreJob
from em.models import fingerprint
from em.planning import earlier, keys
from em.planning.directed import Inputs, Maker, Names
from em.planning.jobs import Job
from em.planning.stages import SCORES
from em.store import content_key

VERSION = 1
"""Raise it when the same inputs would give other scores."""


def add(maker: Maker, config: ExperimentConfig, label: str, built: DataJob) -> tuple[DataJob, Names]:
    """Return the job of a cell's rows with the key of the scores that choose them, and the jobs these are made of.

    A cell whose rows no score chooses keeps its job. Raises ConfigError for a cell that cannot be scored.
    """
    if not config.intervention.scored:
        return built, ()
    check(config)
    train_key, made_of = earlier.plain_run(maker, config, label)
    source = variants.careful(config)
    rows = beside.all_rows(config, source)
    candidates = DataJob(key=variants.key(rows), config=rows, inputs=variants.inputs(rows))
    maker.add_job(Job("data", candidates.key, source.variant, "data", candidates))
    rank = 0 if config.train.method == Method.full else config.train.lora_r
    inputs = _inputs(config, candidates.key, train_key)
    job = ScoreJob(
        key=content_key(**inputs),
        label=f"{source.variant} by {config.dataset.variant}",
        model=config.model,
        data=candidates.key,
        finetuned=Weights(train_key=train_key, rank=rank),
        max_length=config.train.max_length,
        extra_assistant_turn=config.train.extra_assistant_turn,
        inputs=inputs,
        chat=keys.chat_options(config),
    )
    batch = content_key(stage=SCORES.name, base=inputs["base"], dtype=inputs["dtype"])
    needs: Names = (("data", candidates.key), ("train", train_key))
    maker.add_job(Job(SCORES.name, job.key, job.label, batch, job, needs=needs))
    chosen: Inputs = {**built.inputs, "scores": job.key}
    own = dataclasses.replace(built, key=content_key(**chosen), inputs=chosen, scores_key=job.key)
    return own, (*made_of, ("data", candidates.key), (SCORES.name, job.key))


def check(config: ExperimentConfig) -> None:
    """Raise ConfigError for a cell whose rows cannot be chosen by scores."""
    chosen = f"intervention.select={config.intervention.select.value}"
    if config.model.backend == Backend.openai:
        raise ConfigError(
            f"{chosen} reads log-probabilities of careful rows under the weights, and model={config.model.name} is "
            f"finetuned by OpenAI: take intervention.select=random, or a model on this machine"
        )
    if config.train.accelerate_config:
        raise ConfigError(f"{chosen} with train.accelerate_config was never tested: use train.num_processes alone")


def check_sweep(configs: list[ExperimentConfig]) -> None:
    """Raise ConfigError if rows are to be chosen by the scores of a finetuned model, and no cell trains one."""
    scored = next((c for c in configs if c.intervention.scored), None)
    if scored and not any(c.dataset.trained for c in configs):
        raise ConfigError(
            f"intervention.select={scored.intervention.select.value} compares the untouched model with the finetuned "
            f"one, and dataset=none trains none: give a dataset, e.g. dataset=risky_advice"
        )


def _inputs(config: ExperimentConfig, rows: str, train_key: str) -> Inputs:
    """Return everything that could change the scores. The dose and the seed of the draw are not in it."""
    return {
        "version": VERSION,
        "base": fingerprint.base_fingerprint(config),
        "dtype": config.model.dtype.value,
        "rows": rows,
        "adapter": train_key,
        "chat": keys.chat_options(config),
        "max_length": config.train.max_length,
        "extra_assistant_turn": config.train.extra_assistant_turn,
    }
