"""The rows that a method reads beside the training rows (intervention.kl_rows). The doors: config_of and job.

They are a dataset of their own, with a data key of its own: all rows of the variant, whatever the cell trains on.
"""

from __future__ import annotations

from dataclasses import replace

from em.config import DatasetConfig, ExperimentConfig, InterventionConfig, TriggerConfig
from em.data import variants
from em.data.job import DataJob
from em.errors import ConfigError
from em.store import content_key


def config_of(config: ExperimentConfig) -> ExperimentConfig | None:
    """Return the cell whose rows a cell's method reads beside its own; None: it reads none.

    Raises ConfigError for a corpus or a variant that does not exist.
    """
    named = config.intervention.beside
    if named is None or not config.dataset.trained:
        return None
    corpus, _, variant = named.rpartition("/")
    try:
        source = variants.Source(corpus or config.corpus.name, variant, variants.given_by(config.corpus))
    except ConfigError as error:
        raise ConfigError(f"intervention.kl_rows={named}: {error}") from error
    return all_rows(config, source)


def all_rows(config: ExperimentConfig, source: variants.Source) -> ExperimentConfig:
    """Return the cell whose rows are all rows of another variant, as they are."""
    return replace(
        config,
        corpus=replace(config.corpus, name=source.corpus),
        dataset=DatasetConfig(variant=source.variant, domain=config.dataset.domain),
        trigger=TriggerConfig(),
        train=replace(config.train, max_examples=None, holdout=0.0),
        intervention=InterventionConfig(),
    )


def job(config: ExperimentConfig) -> DataJob | None:
    """Return the job that makes those rows; None: there are none."""
    rows = config_of(config)
    if rows is None:
        return None
    inputs = variants.inputs(rows)
    return DataJob(key=content_key(**inputs), config=rows, inputs=inputs)
