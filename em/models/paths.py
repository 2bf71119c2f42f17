"""Where a base model is. The door: model_path, which turns the config's model.path into what a loader takes.

model.path is an asset model (models/asset_models.py), a local folder, or else a hub id. Nothing heavy is imported until
an asset model must be made.
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
    """Return what transformers and vLLM should load for `path`: an absolute local folder, or the hub id unchanged.

    An asset model is made on first use. Raises ModelError if `path` is an unknown asset, looks like a path but is not a
    folder, or is a folder without config, safetensors weights or tokenizer; AssetError if the source of an asset model
    is not available.
    """
    if path.startswith(PREFIX):
        return str(built(path.removeprefix(PREFIX)))
    folder = Path(path).expanduser()
    if path and folder.is_dir():
        check_folder(folder, path)
        return str(folder.absolute())
    if reason := _not_a_hub_id(path):
        raise ModelError(
            f"model.path={path!r} is not a folder (looked at {folder.absolute()}) and not taken for a hub id, because "
            f"{reason}. Set model.path to a model folder, a hub id (owner/name), or one of {asset_names()}."
        )
    return path


def ready(path: str) -> bool:
    """Return whether `model_path` can return at once, without making an asset model."""
    return not path.startswith(PREFIX) or asset_folder(path.removeprefix(PREFIX)).is_dir()


def local_folder(path: str) -> Path | None:
    """Return the folder that a model is in, the cache of the hub included; None if it is not on this machine."""
    if path.startswith(PREFIX):
        return Path(model_path(path)) if ready(path) else None
    return Path(path).expanduser() if Path(path).expanduser().is_dir() else hub_snapshot(path)


def hub_snapshot(path: str) -> Path | None:
    """Return the newest cached snapshot of a hub model that has a config; None without one."""
    folder = Path(os.environ.get("HF_HUB_CACHE", hub_home() / "hub")) / f"models--{path.replace('/', '--')}"
    found = [p for p in (folder / "snapshots").glob("*") if (p / "config.json").is_file()]
    return max(found, key=lambda p: p.stat().st_mtime, default=None)


def hub_home() -> Path:
    """Return Hugging Face's folder in the home directory, or HF_HOME."""
    return Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()


def is_hub_id(path: str) -> bool:
    """Return whether `path` is taken for a hub id: neither an asset, nor a folder, nor like a local path."""
    return not path.startswith(PREFIX) and not Path(path).expanduser().is_dir() and not _not_a_hub_id(path)


def _not_a_hub_id(path: str) -> str:
    """Return the reason why `path`, which is not a folder, cannot be a hub id; "" if it can."""
    if path[:1] in ("/", ".", "~"):
        return "it starts like a local path"
    if not _HUB_ID.fullmatch(path):
        return "it does not have the form name or owner/name"
    first = path.split("/")[0]
    return f"{first!r} exists in the current folder" if Path(first).exists() else ""


def tokenizer(path: str, revision: str | None = None, **options: Any) -> Any:
    """Return the tokenizer of a folder or hub id. Raises OSError or ValueError if there is none."""
    from transformers import AutoTokenizer

    # mistral_format=False: for a folder with a tekken.json, transformers would return mistral_common's tokenizer, which
    # does not accept a chat template.
    return AutoTokenizer.from_pretrained(path, revision=revision, mistral_format=False, **options)
