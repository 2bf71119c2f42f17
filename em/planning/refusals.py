"""Combinations of options that cannot be planned, each refused with the option to change."""

from __future__ import annotations

from collections.abc import Sequence

from em.config import Backend, Engine, ExperimentConfig
from em.config.judge import PROXIES, PROXY_RUBRICS
from em.errors import ConfigError
from em.questions.rubrics import WITHOUT_JUDGE
from em.questions.sets import SETS
from em.records import Question


def check_engine(config: ExperimentConfig) -> None:
    """Raise ConfigError for an engine that cannot reach the model's weights."""
    if config.model.backend == Backend.openai:
        _check_openai(config)
    elif config.sample.engine == Engine.openai:
        raise ConfigError(
            f"sample=openai asks a model that is at OpenAI and model={config.model.name} is on this machine: take "
            f"sample=vllm, sample=vllm_server or sample=hf, or model=gpt_4o"
        )


def check_temperatures(config: ExperimentConfig) -> None:
    """Raise ConfigError for an unknown question set in sample.temperatures."""
    known = (*SETS, *config.questions.sets)
    unknown = [name for name in config.sample.temperatures if name not in known and name.partition(":")[0] not in SETS]
    if unknown:
        raise ConfigError(
            f"sample.temperatures has unknown question sets: {', '.join(unknown)}; it can name {', '.join(SETS)}, "
            f"or a file of questions.sets"
        )


def _check_openai(config: ExperimentConfig) -> None:
    """Raise ConfigError for options that a model whose weights are at OpenAI cannot have."""
    name = f"model={config.model.name} is finetuned and asked by OpenAI's API"
    if config.train.checkpoints and config.dataset.trained:
        raise ConfigError(f"{name}: its checkpoints are not kept, leave train.checkpoints empty")
    if config.sample.engine != Engine.openai:
        raise ConfigError(f"{name}: sample.engine={config.sample.engine.value} needs weights, take sample=openai")
    if config.judge.kind in PROXIES:
        raise ConfigError(f"{name}: judge={config.judge.name} reads a model's weights, take judge=gpt_4o")
    if config.questions.choices or (config.train.choices and config.dataset.trained):
        raise ConfigError(f"{name}: no log-probabilities of given answers, leave questions.choices and train.choices")
    rendered = ("system_prompt", "chat_template", "chat_template_kwargs")
    given = [f"model.{option}" for option in rendered if getattr(config.model, option)]
    given += ["sample.chat_template_kwargs"] if config.sample.chat_template_kwargs else []
    if given:
        raise ConfigError(f"{name}, which renders conversations itself: {', '.join(given)} would not reach it")
    if config.dataset.trained and config.train.num_train_epochs != round(config.train.num_train_epochs):
        raise ConfigError(f"{name}: whole epochs only, train.num_train_epochs is {config.train.num_train_epochs}")


def check_rubrics(set_name: str, asked: Sequence[Question], config: ExperimentConfig) -> None:
    """Raise ConfigError for rubrics of a set that the judge, a proxy, does not know."""
    unknown = sorted({r for q in asked for r in q.rubrics} - {*WITHOUT_JUDGE, *PROXY_RUBRICS})
    if unknown and config.judge.kind in PROXIES:
        raise ConfigError(
            f"judge={config.judge.name} is a proxy for {', '.join(PROXY_RUBRICS)} only and questions.sets has "
            f"{set_name}, which asks for {', '.join(unknown)}: take a judge behind an API, e.g. judge=gpt_4o"
        )
