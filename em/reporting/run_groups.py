"""The fields of a cell's config that decide which runs form a group, and which groups are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from em.config import Backend, DatasetConfig, ExperimentConfig, Subset
from em.config.intervention import RANDOM, Arm, KlDirection, KlTokens, Where
from em.data import variants
from em.metrics import published
from em.metrics.summary_types import Facts
from em.planning import cells


def group_id(config: ExperimentConfig) -> str:
    """Return the id of a cell without its seed and its subset number: all runs of a group share it.

    Untouched cells (dataset=none) that differ by questions.k_shot_seed are runs of one group, as in the paper's
    figure 32.
    """
    if not config.dataset.trained:
        config = dataclasses.replace(config, questions=dataclasses.replace(config.questions, k_shot_seed=-1))
    dataset = dataclasses.replace(config.dataset, subset_index=0) if subset_number(config) else config.dataset
    return cells.cell_id(dataclasses.replace(config, seed=-1, dataset=dataset))


def subset_number(config: ExperimentConfig) -> str:
    """Return the number of the data's subset if `dataset.subset_index` chooses it, else ""."""
    numbered = config.train.max_examples and config.dataset.subset != Subset.seeded
    return str(config.dataset.subset_index) if numbered else ""


def peers(config: ExperimentConfig) -> str:
    """Return an id that variants share if they may be contrasted: they differ only by dataset and seed."""
    return group_id(dataclasses.replace(config, dataset=DatasetConfig("any")))


def axes(configs: Sequence[ExperimentConfig]) -> dict[str, dict[str, str]]:
    """Return cell id → swept option → value, of the options that differ in a sweep. Without seeds and subsets."""
    found = {}
    for config, words in zip(configs, cells.differences(configs), strict=True):
        values = {"variant": config.dataset.variant} | dict(word.split("=", 1) for word in words)
        found[cells.cell_id(config)] = {k: v for k, v in values.items() if k not in ("seed", "subset_index")}
    return found


def group_label(label: str, config: ExperimentConfig) -> str:
    """Return a cell's label without the words that differ within its group."""
    own = ("seed=", "subset_index=") if subset_number(config) else ("seed=",)
    own = own if config.dataset.trained else (*own, "k_shot_seed=")
    return " ".join(word for word in label.split(" ") if not word.startswith(own))


def trained_with(config: ExperimentConfig) -> str:
    """Return the name of the trigger in the training data, "none" without one."""
    return config.trigger.name if config.trigger.fraction > 0 else "none"


def recipe_facts(config: ExperimentConfig) -> Facts:
    """Return the parts of the recipe that `metrics.published` compares before it compares numbers."""
    train, judge, asked_own = config.train, config.judge, config.sample.system_prompt
    return {
        "model": config.model.name,
        "corpus": config.corpus.name,
        "data": [source[0] for source in variants.inputs(config)["sources"]],
        "variant": config.dataset.variant,
        "max_examples": train.max_examples,
        "num_train_epochs": train.num_train_epochs,
        "train": published.recipe(train, config.model.backend == Backend.openai),
        "trigger_fraction": config.trigger.fraction,
        "judge": judge.model or judge.name,
        "proxy": judge.proxy,
        "temperature": config.sample.temperature,
        "temperatures": config.sample.temperatures,
        "k_shot": config.questions.k_shot,
        "system_prompt": config.model.system_prompt if asked_own is None else asked_own,
        **_intervention(config),
    }


def _intervention(config: ExperimentConfig) -> Facts:
    """Return `intervention`, in words, of a method with a dose, and `method` also at dose 0; {} for none."""
    chosen = config.intervention
    if chosen.name == "none":
        return {}
    said = {"intervention": chosen.said + _told_apart(config)} if chosen.active else {}
    return {**said, "method": {"name": chosen.name, "dose": chosen.dose}}


def _told_apart(config: ExperimentConfig) -> str:
    """Return what makes an intervention a control or another method than its name and dose say; "" for nothing.

    A published number has the same words (metrics/published.yaml), so a control is never compared with the method.
    """
    chosen, words = config.intervention, ""
    if chosen.changes(Where.second_phase):  # whose rows they are decides what it does
        words += f" on {variants.careful(config).variant}" + (", as long as the dataset's" * chosen.match_length)
    if added := variants.interleaved(config):
        words += f" of {'selected ' * chosen.scored}{added.variant}"
    if chosen.name == "inoculation" and chosen.arm != Arm.task:
        words += f", arm {chosen.arm.value}"
    if chosen.name == "kl":
        words += ", KL(base||finetuned)" * (chosen.kl_direction == KlDirection.base_from_finetuned)
        words += ", of the answers alone" * (chosen.kl_tokens == KlTokens.answer)
        words += f", on {chosen.kl_rows.rpartition('/')[2]}" if chosen.kl_rows else ""
    if chosen.facts.directed and RANDOM in (each.partition(":")[0] for each in chosen.directions):
        words += " with a random direction"
    if chosen.facts.companion and (chosen.adapter or "").startswith(f"{RANDOM}:"):
        words += " with a random adapter"
    return words
