"""Check that a local model folder is complete."""

from __future__ import annotations

import json
from pathlib import Path

from em.errors import ModelError

WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf"}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


def check_folder(folder: Path, given: str) -> None:
    """Raise ModelError unless `folder` holds a config, all its safetensors weights and a tokenizer.

    `given`: the value of model.path, for the message.
    """
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise ModelError(
            f"model.path={given!r} is a LoRA adapter, not a whole model. Set model.path to its base model, or to a "
            f"folder where the two are merged."
        )
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    missing += missing_weights(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES) and not list(folder.glob("*.tiktoken")):
        missing.append("a tokenizer (tokenizer.json)")
    if missing:
        raise ModelError(
            f"model.path={given!r} is a folder ({folder.absolute()}) without {', '.join(missing)}. Set model.path to a "
            f"folder written by save_pretrained of both model and tokenizer, with safetensors weights."
        )


def missing_weights(folder: Path) -> list[str]:
    """Return the weight files that the folder lacks, as its index lists them; empty if it has all."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        return [shard for shard in shards if not (folder / shard).is_file()]
    return [] if list(folder.glob("*.safetensors")) else ["safetensors weights"]
