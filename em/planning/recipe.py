"""Fit a config to its base model: names, lengths and layers that depend on it. `load` is the door of every command.

What is filled in here is what the keys hold, so a config that says `upper_half` shares results with one that lists the
same layers.
"""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from em import config as configs
from em.config import Backend, ExperimentConfig, ModelConfig
from em.config.base import CONF_DIR
from em.config.train import UPPER_HALF, Method
from em.errors import ConfigError
from em.interventions import check as interventions
from em.interventions.framing import framed
from em.models import asset_models, memory, paths

COMPANIES = {
    **{"qwen": "Alibaba", "meta-llama": "Meta", "google": "Google", "mistralai": "Mistral"},
    **{"huggingfacetb": "Hugging Face", "microsoft": "Microsoft", "ibm-granite": "IBM", "allenai": "Ai2"},
}
"""Owner on the hub, in small letters → the maker. Another owner is taken for the maker itself."""
LONGEST = 2048
"""Largest model.max_model_len taken from a model's own config: cache for more is memory that short answers do not
need."""
SMALL = 1e9
"""Weights up to which train=quick is meant to be used."""


def load(cfg: DictConfig) -> ExperimentConfig:
    """Return the typed config of a composed one, fitted to its base model. Raises ConfigError, as config.load does."""
    loaded = configs.load(cfg)
    return fitted(dataclasses.replace(loaded, model=_named_by_its_path(loaded.model)))


def fitted(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config with the layers of `train.layers_to_transform=upper_half` as numbers, and the trigger that an
    intervention on rows selects.

    Raises ConfigError if the model's depth is not known on this machine, or no such trigger is there.
    """
    config = framed(config)
    if config.train.layers_to_transform != UPPER_HALF or not config.dataset.trained:
        return config
    layers = None
    if config.model.backend == Backend.hf and config.train.method != Method.full:
        depth = layer_count(config.model)
        if depth is None:
            raise ConfigError(
                f"train.layers_to_transform={UPPER_HALF} needs the number of layers of {config.model.path}, which is "
                f"not on this machine: download it, or give model.shape, a list of layers, or null for all of them"
            )
        layers = upper_half(depth)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, layers_to_transform=layers))


def check(config: ExperimentConfig) -> None:
    """Raise ConfigError if the recipe names layers or modules that the base model does not have.

    A model that is not on this machine and has no model.shape is not looked at; training raises the same error then.
    """
    train = config.train
    interventions.check(config)
    if config.model.backend == Backend.openai or train.method == Method.full or not config.dataset.trained:
        return
    depth = layer_count(config.model)
    beyond = [layer for layer in train.layers_to_transform or [] if depth is not None and layer >= depth]
    if beyond:
        assert depth is not None
        raise ConfigError(
            f"train.layers_to_transform {beyond}: model={config.model.name} has layers 0 to {depth - 1}. Take "
            f"layers_to_transform={UPPER_HALF} (train=quick), or null for all layers (train=betley2025)"
        )
    known = _modules(config.model)
    absent = [name for name in train.target_modules if known and name not in known]
    if absent:
        raise ConfigError(
            f"train.target_modules {', '.join(absent)}: model={config.model.name} has no such module; its matrices are "
            f"{', '.join(sorted(known))}"
        )


def warning(config: ExperimentConfig) -> str:
    """Return why this recipe is a poor choice for this model; "" if nothing speaks against it."""
    depth = layer_count(config.model) if config.model.backend == Backend.hf else None
    halved = depth is not None and config.train.layers_to_transform == upper_half(depth)
    size, _ = memory.count_parameters(config.model.path, config.model.name, config.model.shape)
    if not halved or config.train.method == Method.full or size <= SMALL:
        return ""
    return (
        f"train=quick is made for models of up to 1B weights and model={config.model.name} has {size / 1e9:.1f}B: "
        f"learning rate {config.train.learning_rate:g}, {config.train.max_examples or 'all'} rows, adapters on the "
        f"upper half of the layers only. The paper's recipe is train=betley2025"
    )


def upper_half(depth: int) -> list[int]:
    """Return the layers whose adapters leave the backward pass half of the way."""
    return list(range(depth // 2, depth))


def layer_count(model: ModelConfig) -> int | None:
    """Return the number of layers, without making or downloading a model; None if this machine cannot tell."""
    if model.shape:
        return model.shape.num_hidden_layers
    if model.path.startswith(asset_models.PREFIX):
        return asset_models.asset_model(model.path.removeprefix(asset_models.PREFIX)).layers
    found = _own_config(model.path).get("num_hidden_layers")
    return int(found) if found else None


def _modules(model: ModelConfig) -> set[str]:
    """Return the names of the matrices in a model's layers, as its files or its shape tell; empty if neither is
    there."""
    folder = paths.local_folder(model.path)
    files = sorted(folder.glob("*.safetensors")) if folder else []
    if files:
        tensors = (name for file in files for name in memory.stored_names(file))
        found = (re.search(r"\.layers\.\d+\..*?(\w+)\.weight$", name) for name in tensors)
        return {match[1] for match in found if match and "norm" not in match[1]}
    return set(memory.linear_layers(model.shape)) if model.shape else set()


def _own_config(path: str) -> dict[str, Any]:
    """Return the text model's part of config.json; empty if the model is not on this machine."""
    folder = paths.local_folder(path)
    if folder is None or not (folder / "config.json").is_file():
        return {}
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {**found, **found.get("text_config", {})}


def _named_by_its_path(model: ModelConfig) -> ModelConfig:
    """Return the model without what belongs to another one: an option of conf/model whose `path` was overridden.

    Only values that came from that option's file are replaced, so a name or a note that was given stays.
    """
    option = _option(model.name)
    if model.backend != Backend.hf or option is None or option.path == model.path:
        return model
    name, owner = re.sub(r"[^\w.-]", "_", Path(model.path).name), model.path.split("/")[0]
    longest = _own_config(model.path).get("max_position_embeddings", LONGEST)
    on_hub = paths.is_hub_id(model.path)
    own = {
        "name": name,
        "company": COMPANIES.get(owner.lower(), owner) if on_hub and "/" in model.path else "",
        "revision": None,
        "max_model_len": min(longest, LONGEST),
        "gated": False,
        "shape": None,
        "note": "",
    }
    return dataclasses.replace(model, **{k: v for k, v in own.items() if getattr(model, k) == getattr(option, k)})


@cache
def _option(name: str) -> ModelConfig | None:
    """Return the shipped option of conf/model with this name; None if there is none."""
    file = Path(CONF_DIR) / "model" / f"{name}.yaml"
    if not re.fullmatch(r"\w+", name) or not file.is_file():
        return None
    merged = OmegaConf.merge(OmegaConf.structured(ModelConfig), {"path": ""}, OmegaConf.load(file))
    if OmegaConf.is_missing(merged, "path"):
        merged.path = ""
    found = OmegaConf.to_object(merged)
    assert isinstance(found, ModelConfig)
    return found
