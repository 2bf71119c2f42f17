"""Texts that identify a base model in content keys. The door: base_fingerprint."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from em.config import Backend, ExperimentConfig
from em.errors import ModelError
from em.models.asset_models import PREFIX, asset_model
from em.models.folder import WEIGHT_SUFFIXES
from em.models.paths import model_path

_SMALL_FILE = 20_000_000
"""Bytes. Weight files from this size on are sampled."""
_MIB = 1 << 20
_SAMPLE_BYTES = 4096
_MAX_HEADER = 100_000_000


def base_fingerprint(config: ExperimentConfig) -> str:
    """Return the fingerprint of a cell's base model. Raises ModelError as `model_path` does."""
    if config.model.backend == Backend.openai:
        return f"{config.model.base_url.rstrip('/')}#{config.model.path}"
    return cached_fingerprint(config.model.path, config.model.revision)


@cache
def cached_fingerprint(path: str, revision: str | None) -> str:
    """Return `compute_fingerprint`, computed once per plan: the planner clears the cache when it starts."""
    # Every stage of every cell needs it, and a folder may have 65 GB.
    return compute_fingerprint(path, revision)


def compute_fingerprint(path: str, revision: str | None) -> str:
    """Return a short text that identifies a base model by its content.

    * Asset models: name, recipe version and sha256 of the source, so that nothing must be built. The versions of
      transformers and torch that made the files are not in it.
    * Local folders: sha256 over names, sizes and contents of the files at the top and in
      ``additional_chat_templates/``, without hidden files and Markdown. Weight files from 20 MB on are sampled: size,
      first and last MiB and, for safetensors, the whole header and the first, middle and last 4 KiB of every tensor.
      An edit that keeps the size and changes none of these bytes goes unnoticed. Training changes practically every
      number of a trained matrix, so it is noticed.
    * Hub ids: ``id@revision``, with ``main`` if `revision` is None. A branch that moves goes unnoticed: pin a commit.

    Raises ModelError as `model_path` does.
    """
    if path.startswith(PREFIX):
        name = path.removeprefix(PREFIX)
        model = asset_model(name)
        return f"{PREFIX}{name}@recipe{model.recipe}:{model.source}"
    local = model_path(path)
    if not Path(local).is_absolute():
        return f"{local}@{revision or 'main'}"
    total = hashlib.sha256()
    for file in _identifying_files(Path(local)):
        name, size = file.relative_to(local).as_posix(), file.stat().st_size
        total.update(f"{name}\0{size}\0{_file_digest(file, size)}\n".encode())
    return f"local:{total.hexdigest()}"


def _identifying_files(folder: Path) -> list[Path]:
    found = [*folder.iterdir(), *(folder / "additional_chat_templates").glob("*")]
    return sorted(f for f in found if f.is_file() and not f.name.startswith(".") and f.suffix != ".md")


def _file_digest(file: Path, size: int) -> str:
    """Return the sha256 of the whole file, or of samples of a large weight file (see `compute_fingerprint`)."""
    with file.open("rb") as stream:
        if size < _SMALL_FILE or file.suffix not in WEIGHT_SUFFIXES:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256()
        start = 0
        if file.suffix == ".safetensors":
            header = safetensors_header(file, stream, size)
            start = stream.tell()
            digest.update(header)
            _update_from_tensors(digest, stream, start, json.loads(header))
        for offset in (start, max(start, size - _MIB)):
            stream.seek(offset)
            digest.update(stream.read(_MIB))
        return digest.hexdigest()


def safetensors_header(file: Path, stream: BinaryIO, size: int) -> bytes:
    """Read the JSON header and leave the stream at the first byte of data. Raises ModelError if it is damaged."""
    length = int.from_bytes(stream.read(8), "little")
    header = stream.read(length) if length <= min(size - 8, _MAX_HEADER) else b""
    if not header.startswith(b"{"):
        raise ModelError(f"{file} is not a safetensors file, or is damaged. Copy the model folder again (model.path).")
    return header


def _update_from_tensors(digest: Any, stream: BinaryIO, start: int, header: dict[str, Any]) -> None:
    spans = sorted(entry["data_offsets"] for name, entry in header.items() if name != "__metadata__")
    for begin, end in spans:
        for offset in (begin, (begin + end) // 2, max(begin, end - _SAMPLE_BYTES)):
            stream.seek(start + offset)
            digest.update(stream.read(min(_SAMPLE_BYTES, end - offset)))
