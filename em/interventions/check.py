"""Combinations of an intervention with other options that make no sense, refused before training."""

from __future__ import annotations

import json
from pathlib import Path

from em.config import Backend, DirectionKind, ExperimentConfig
from em.config.intervention import RANDOM, Where
from em.config.steer import PLANNED
from em.config.train import Method
from em.directions import artefact
from em.errors import ConfigError
from em.interventions.identity import adapter_files
from em.models import fingerprint, memory


def check(config: ExperimentConfig) -> None:
    """Raise ConfigError or DirectionError for an intervention that this cell cannot have."""
    chosen, train = config.intervention, config.train
    if not chosen.active or chosen.changes(Where.data) or not config.dataset.trained:
        return
    name = f"intervention={chosen.name}"
    if config.model.backend == Backend.openai:
        raise ConfigError(
            f"{name} changes a training step, and model={config.model.name} is finetuned by OpenAI: take a method on "
            f"rows (interleave, inoculation, educational), or a model on this machine"
        )
    if chosen.facts.base_pass and train.method == Method.full:
        raise ConfigError(
            f"{name} compares with the base model by switching the adapter off: take train=quick, not full"
        )
    if train.accelerate_config:
        raise ConfigError(f"{name} with train.accelerate_config was never tested: use train.num_processes alone")
    if chosen.facts.directed:
        _check_direction(config, name)
    if chosen.facts.companion:
        _check_companion(config, name)


def _check_companion(config: ExperimentConfig, name: str) -> None:
    given = config.intervention.adapter
    if given is None:
        raise ConfigError(f"{name} needs an adapter that has learned the trait: intervention.adapter=FOLDER")
    if config.train.method == Method.full:
        raise ConfigError(f"{name} stands beside the adapter that is trained: take train=quick, not full")
    _, file = adapter_files(Path(given.removeprefix(f"{RANDOM}:")))
    theirs = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if theirs and theirs != config.model.path:
        raise ConfigError(f"intervention.adapter={given} is of the model {theirs}, not of {config.model.path}")


def _check_direction(config: ExperimentConfig, name: str) -> None:
    chosen = config.intervention
    if not chosen.directions:
        raise ConfigError(
            f"{name} needs a direction: intervention.direction=FOLDER, or {RANDOM} for the control without meaning"
        )
    if chosen.name != "caft" and len(chosen.directions) > 1:
        raise ConfigError(f"{name} takes one direction, got {len(chosen.directions)}: a subspace is for caft")
    shape = memory.shape_of(config.model)
    if shape and (beyond := [b for b in chosen.blocks or [] if b >= shape.num_hidden_layers]):
        raise ConfigError(
            f"intervention.blocks {beyond}: model={config.model.name} has the blocks 0 to {shape.num_hidden_layers - 1}"
        )
    folders = [each.removeprefix(f"{RANDOM}:") for each in chosen.directions if each != RANDOM]
    if PLANNED in folders and config.direction.kind == DirectionKind.none:
        raise ConfigError("intervention.direction=planned is the direction of the cell: set direction=, e.g. mean_diff")
    for folder in (each for each in folders if each != PLANNED):
        direction = artefact.load(Path(folder))
        if shape:
            direction.check_fits(shape.num_hidden_layers, shape.hidden_size, f"model={config.model.name}")
        theirs, ours = direction.facts.fingerprint, fingerprint.base_fingerprint(config)
        if theirs and theirs != ours:
            raise ConfigError(
                f"intervention.direction={folder} was made on another model ({direction.facts.model}) than "
                f"model={config.model.name}: make a direction of this model"
            )
