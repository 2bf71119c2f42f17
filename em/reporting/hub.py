"""Put the folder of an exported adapter on the Hugging Face Hub, as a private model."""

from __future__ import annotations

from pathlib import Path

from em.errors import ConfigError

SERVED = ("adapter_config.json",)
"""Files without which a folder is no adapter."""


def files(folder: Path) -> list[tuple[str, int]]:
    """Return (path in the repository, bytes) of every file that would go. Raises ConfigError if it is no adapter."""
    found = [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in sorted(folder.rglob("*"))]
    names = {name for name, _ in found}
    if missing := [name for name in SERVED if name not in names]:
        raise ConfigError(f"{folder} holds no {missing[0]}: em push takes adapters (train.method=lora or qlora)")
    return [(name, size) for name, size in found if (folder / name).is_file()]


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
