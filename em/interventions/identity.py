"""What a method adds to the train key. Methods on rows are in the data key instead. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from em.config import ExperimentConfig, as_dict
from em.config.intervention import RANDOM, Where
from em.config.steer import PLANNED
from em.directions.artefact import VECTORS
from em.errors import ConfigError
from em.models.fingerprint import cached_fingerprint
from em.store import file_sha256

VERSION = 1
"""Raise it when the same inputs would give other weights."""


def key(config: ExperimentConfig) -> dict[str, Any]:
    """Return what of the intervention can change the weights; {} if it is plain finetuning or acts on rows."""
    chosen = config.intervention
    if not chosen.active or chosen.changes(Where.data):
        return {}
    values = as_dict(chosen)
    own = {name: values[name] for name in chosen.facts.fields}
    if chosen.directions != [RANDOM]:
        own.pop("norm", None)
    if chosen.facts.directed:
        own["direction"] = [_pin(each) for each in chosen.directions]
    if chosen.facts.companion:
        own["adapter"] = _adapter_pin(str(chosen.adapter))
    if chosen.facts.unaligned:
        own["unaligned"] = cached_fingerprint(str(chosen.unaligned), None)
    return {"version": VERSION, "name": chosen.name, "dose": chosen.dose, **own}


def _pin(direction: str) -> str:
    """Return `random`, or the digest of a direction's vectors, behind `random:` if only their length is used.

    `planned` stays: the planner puts the direction's key in its place (planning/directed.py).
    """
    folder = direction.removeprefix(f"{RANDOM}:")
    if direction == RANDOM or folder == PLANNED:
        return direction
    file = Path(folder) / VECTORS
    if not file.is_file():
        raise ConfigError(
            f"intervention.direction={direction}: {folder} is not a folder with {VECTORS}; "
            f"give a direction's folder, {RANDOM} or {RANDOM}:FOLDER"
        )
    return direction.removesuffix(folder) + file_sha256(file)


def _adapter_pin(adapter: str) -> list[str]:
    """Return whether only the norms of an adapter are used, and the digests of its weights and config.

    `planned` stays: the planner adds the key of the run that makes it (planning/earlier.py).
    """
    folder = adapter.removeprefix(f"{RANDOM}:")
    how = RANDOM if adapter.startswith(f"{RANDOM}:") else "itself"
    return [how, PLANNED] if folder == PLANNED else [how, *map(file_sha256, adapter_files(Path(folder)))]


def adapter_files(folder: Path) -> list[Path]:
    """Return the two files of a LoRA adapter. Raises ConfigError if one is missing."""
    files = [folder / "adapter_model.safetensors", folder / "adapter_config.json"]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ConfigError(
            f"intervention.adapter={folder} holds no LoRA adapter, {missing[0]} is missing: give the folder of a "
            f"finished run, e.g. outputs/store/train/KEY/adapter, or {RANDOM}:FOLDER"
        )
    return files
