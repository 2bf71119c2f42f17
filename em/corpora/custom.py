"""The user's own rows (corpus=custom corpus.path=FILE): a file, a folder, or a data set of the Hub."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from em.corpora import census, chat_jsonl, own_files
from em.corpora.base import Corpus, Given
from em.errors import ConfigError
from em.records import Example


class Custom(Corpus):
    """One variant, which may have any name. Its rows are checked before they are pinned, so before anything runs."""

    variants = None

    def pin(self, variant: str) -> str:
        self.rows(variant)
        fields = ",".join(f"{role}={name}" for role, name in self.given.fields)
        return ":".join(filter(None, ["custom", self._identity(), fields]))

    def _identity(self) -> str:
        """Return the commit of a data set of the Hub, or a hash of the files."""
        given = self.given
        if given.revision:
            return f"hub/{given.path}@{given.revision}/{given.split}"
        path = Path(given.path or "")
        hashes = [_sha256(file) for file in own_files.files(path)]
        if path.is_file():
            return hashes[0]
        named = [f"{f.name} {h}" for f, h in zip(own_files.files(path), hashes, strict=True)]
        return hashlib.sha256("\n".join(named).encode()).hexdigest()

    def rows(self, variant: str) -> list[Example]:
        """Return all rows. Raises DataError for the first bad one, ConfigError if there is no file or data set."""
        found = scanned(self.given)
        if found.bad:
            more = f" (and {len(found.bad) - 1} more bad rows)" if len(found.bad) > 1 else ""
            raise chat_jsonl.DataError(f"{found.bad[0]}{more}")
        if not found.examples:
            raise chat_jsonl.DataError(f"{self.given.path}: expected at least one row, found none")
        return list(found.examples)

    def count(self, variant: str) -> int:
        return len(self.rows(variant))

    def summary(self, variant: str) -> str:
        return census.summary(scanned(self.given))


def scanned(given: Given) -> own_files.Scan:
    """Return what is in the user's data, good rows and bad. Raises ConfigError if there is no file or data set."""
    if not given.path:
        raise ConfigError("corpus=custom needs corpus.path: a file, a folder, or the name of a data set of the Hub")
    if given.revision:
        return _scanned(given, ())
    stamps = [(str(f), s.st_size, s.st_mtime_ns) for f in own_files.files(Path(given.path)) for s in [f.stat()]]
    return _scanned(given, tuple(stamps))


@lru_cache(maxsize=4)  # a plan asks for pin, count and size of the same rows; `stamps` change when a file does
def _scanned(given: Given, stamps: tuple[tuple[str, int, int], ...]) -> own_files.Scan:
    path = given.path or ""
    rows = own_files.of_hub(path, given.revision, given.split) if given.revision else own_files.of_path(Path(path))
    return own_files.scan(rows, dict(given.fields))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
