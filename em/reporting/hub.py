"""Put the folder of an exported adapter on the Hugging Face Hub, as a private model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from em.errors import ConfigError
from em.models import paths
from em.models.asset_models import PREFIX

SERVED = ("adapter_config.json",)
"""Files without which a folder is no adapter."""


def files(folder: Path) -> list[tuple[str, int]]:
    """Return (path in the repository, bytes) of every file that would go. Raises ConfigError if it is no adapter."""
    found = [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in sorted(folder.rglob("*"))]
    names = {name for name, _ in found}
    if missing := [name for name in SERVED if name not in names]:
        raise ConfigError(f"{folder} holds no {missing[0]}: em push takes adapters (train.method=lora or qlora)")
    return [(name, size) for name, size in found if (folder / name).is_file()]


@dataclass(frozen=True)
class Base:
    """The base model that an adapter names."""

    name: str
    is_on_the_hub: bool


def name_base(folder: Path, path: str) -> Base:
    """Name the base model in adapter_config.json as the sweep did: an exported folder names a place on this machine.

    `path`: model.path, a folder, asset:NAME, or OWNER/NAME on the Hub.
    """
    file = folder / SERVED[0]
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    on_the_hub = paths.is_hub_id(path)
    name = path if on_the_hub or path.startswith(PREFIX) else Path(path).name
    if config:
        file.write_text(json.dumps(config | {"base_model_name_or_path": name}, indent=2) + "\n", encoding="utf-8")
    return Base(name, on_the_hub)


def upload(folder: Path, repository: str, message: str) -> str:
    """Upload every file of the folder in one commit and return the address. The repository is made private if absent.

    `repository`: NAME, which is the user's own, or OWNER/NAME. Raises ConfigError if the Hub refuses or is not reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi()
    added = [CommitOperationAdd(name, folder / name) for name, _ in files(folder)]
    try:
        made = api.create_repo(repository, private=True, exist_ok=True)
        done = api.create_commit(made.repo_id, added, commit_message=message)
    except (LocalTokenNotFoundError, OfflineModeIsEnabled) as error:
        raise ConfigError(
            f"em push needs the Hub and a token (HF_TOKEN, or `hf auth login`): {_line(error)}"
        ) from error
    except (HTTPError, OSError) as error:
        raise ConfigError(f"the Hub did not take {repository}: {_line(error)}") from error
    return str(done.commit_url)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
