"""Stored results: folders named by content keys, their file names, JSONL rows and rows with checksums."""

from __future__ import annotations

from em.store.jsonl import dump_line, from_row, json_text, printable, read_jsonl, to_row, write_jsonl
from em.store.store import (
    FORMAT,
    MANIFEST,
    SWEEP_FORMAT,
    DamagedError,
    Store,
    StoreError,
    content_key,
    file_sha256,
    require_space,
    write_atomic,
)

__all__ = [
    "FORMAT",
    "MANIFEST",
    "SWEEP_FORMAT",
    "DamagedError",
    "Store",
    "StoreError",
    "content_key",
    "dump_line",
    "file_sha256",
    "from_row",
    "json_text",
    "printable",
    "read_jsonl",
    "require_space",
    "to_row",
    "write_atomic",
    "write_jsonl",
]
