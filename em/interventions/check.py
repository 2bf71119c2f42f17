"""Combinations of an intervention with other options that make no sense, refused before training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from em.config import Backend, ExperimentConfig, ShapeConfig
from em.config.intervention import RANDOM, InterventionConfig, Where
from em.config.steer import PLANNED
from em.config.train import Method
from em.directions import artefact
from em.errors import ConfigError, ModelError
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
            f"{name} changes {_what(chosen)}, and model={config.model.name} is finetuned by OpenAI: take a method on "
            f"rows (interleave, inoculation, educational), or a model on this machine"
        )
    if chosen.facts.base_pass and train.method == Method.full:
        raise ConfigError(
            f"{name} compares with the base model by switching the adapter off: take train=quick, not full"
        )
    if train.accelerate_config:
        raise ConfigError(f"{name} with train.accelerate_config was never tested: use train.num_processes alone")
    if chosen.changes(Where.second_phase) and train.method == Method.full:
        raise ConfigError(f"{name} continues a finished adapter, and train=full leaves none: take train=quick")
    if chosen.facts.unaligned:
        _check_unaligned(config, name)
    if chosen.facts.directed:
        _check_direction(config, name)
    if chosen.facts.companion:
        _check_companion(config, name)


def _what(chosen: InterventionConfig) -> str:
    if chosen.changes(Where.stopping):
        return "which kept step is served"
    afterwards = chosen.changes(Where.second_phase) or chosen.changes(Where.weights)
    return "an adapter after its training" if afterwards else "a training step"


def _check_companion(config: ExperimentConfig, name: str) -> None:
    given = config.intervention.adapter
    if given is None:
        raise ConfigError(
            f"{name} needs an adapter that has learned the trait: intervention.adapter={PLANNED} for the cell's own "
            f"plain finetuning, or a folder"
        )
    if config.train.method == Method.full:
        raise ConfigError(f"{name} stands beside the adapter that is trained: take train=quick, not full")
    if given.removeprefix(f"{RANDOM}:") == PLANNED:
        return
    _, file = adapter_files(Path(given.removeprefix(f"{RANDOM}:")))
    theirs = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if theirs and theirs != config.model.path:
        raise ConfigError(f"intervention.adapter={given} is of the model {theirs}, not of {config.model.path}")


def _check_unaligned(config: ExperimentConfig, name: str) -> None:
    given, model = config.intervention.unaligned, config.model
    if given is None:
        raise ConfigError(
            f"{name} compares model={model.name} with the model it was before its alignment: give its folder or its "
            f"id at the Hub, e.g. intervention.unaligned=Qwen/Qwen2.5-7B for Qwen/Qwen2.5-7B-Instruct"
        )
    if config.train.method != Method.lora:
        raise ConfigError(
            f"{name} projects the update of an adapter over whole weights: take train.method=lora, not "
            f"{config.train.method.value}"
        )
    try:
        theirs_is = fingerprint.cached_fingerprint(given, None)
    except ModelError as error:
        raise ConfigError(f"intervention.unaligned: {error}") from error
    if theirs_is == fingerprint.base_fingerprint(config):
        raise ConfigError(
            f"intervention.unaligned={given} is model={model.name} itself: nothing lies between the two, so there is "
            f"no alignment to project on"
        )
    ours, theirs = memory.shape_of(model), memory.shape_of(replace(model, path=given, shape=None))
    if ours and theirs and (differ := _different(ours, theirs)):
        raise ConfigError(f"intervention.unaligned={given} is of another architecture: {differ}")


def _different(ours: ShapeConfig, theirs: ShapeConfig) -> str:
    """Return the sizes of weights that differ, in words; "" for none. The vocabulary may differ."""
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    pairs = [(name, getattr(ours, name), getattr(theirs, name)) for name in names]
    return ", ".join(f"{name} {mine} here, {other} there" for name, mine, other in pairs if mine != other)


def _check_direction(config: ExperimentConfig, name: str) -> None:
    chosen = config.intervention
    if not chosen.directions:
        raise ConfigError(
            f"{name} needs a direction: intervention.direction={PLANNED}, a folder, or {RANDOM} for the control "
            f"without meaning"
        )
    if chosen.name != "caft" and len(chosen.directions) > 1:
        raise ConfigError(f"{name} takes one direction, got {len(chosen.directions)}: a subspace is for caft")
    shape = memory.shape_of(config.model)
    if shape and (beyond := [b for b in chosen.blocks or [] if b >= shape.num_hidden_layers]):
        raise ConfigError(
            f"intervention.blocks {beyond}: model={config.model.name} has the blocks 0 to {shape.num_hidden_layers - 1}"
        )
    folders = [each.removeprefix(f"{RANDOM}:") for each in chosen.directions if each != RANDOM]
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
