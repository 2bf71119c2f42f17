"""The user's own chat JSONL file (corpus=custom corpus.path=FILE)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from em.corpora import chat_jsonl
from em.corpora.base import Corpus
from em.errors import ConfigError
from em.records import Example


class Custom(Corpus):
    """One file with one variant, which may have any name."""

    variants = None

    def pin(self, variant: str) -> str:
        with self.file(variant).open("rb") as file:
            return f"custom:{hashlib.file_digest(file, 'sha256').hexdigest()}"

    def rows(self, variant: str) -> list[Example]:
        return chat_jsonl.read(self.file(variant))

    def count(self, variant: str) -> int:
        return chat_jsonl.count(self.file(variant))

    def file(self, variant: str) -> Path:
        """Return corpus.path. Raises ConfigError if it is not a file."""
        path = Path(self.path or "")
        if not path.is_file():
            raise ConfigError(f"corpus.path {self.path!r} is not a file: give the path of a chat JSONL file")
        return path
