"""The interface of a corpus: its variants, their rows, how many there are, and a text that identifies them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from em.corpora import chat_jsonl
from em.records import Example


@dataclass(frozen=True)
class Given:
    """Where the user's own rows are: the config's corpus without its name."""

    path: str | None = None
    fields: tuple[tuple[str, str], ...] = ()
    """corpus.map as pairs."""
    revision: str | None = None
    """Commit of a data set of the Hub; None: path is a file or a folder."""
    split: str = "train"


class Corpus(ABC):
    """One source of training rows. `corpora.open_corpus` returns the one that the config names."""

    variants: ClassVar[tuple[str, ...] | None]
    """Names of its variants. None: every name is accepted."""
    unpinned: ClassVar[Mapping[str, str]] = {}
    """Further sets of the paper, of which no hash is known → how to get them."""

    def __init__(self, given: Given | None = None) -> None:
        """`given`: what the config's corpus says. Only the user's own corpus needs it."""
        self.given = given or Given()

    @abstractmethod
    def pin(self, variant: str) -> str:
        """Return a text that changes whenever the rows do, without reading them where possible. It is in the data key,
        so it must begin with the corpus's name."""

    @abstractmethod
    def rows(self, variant: str) -> list[Example]:
        """Return all rows in a fixed order. Raise AssetError if a file is neither on this machine nor downloadable."""

    @abstractmethod
    def count(self, variant: str) -> int:
        """Return the number of rows, without reading or generating them where possible."""

    def asset(self, variant: str) -> str | None:
        """Return the name of the pinned file (see assets.py) that the rows are read from. None: it needs none."""
        return None

    def file(self, variant: str) -> Path | None:
        """Return the file that the rows are read from, downloaded if necessary. None: the rows are generated."""
        return None

    def summary(self, variant: str) -> str:
        """Return what a check of a run says about the rows. "": nothing beside their number."""
        return ""

    def row_bytes(self, variant: str) -> float:
        """Return the mean size of a row in bytes of chat JSONL, for estimates."""
        file = self.file(variant)
        size = file.stat().st_size if file else len(chat_jsonl.dump(self.rows(variant)))
        return size / max(1, self.count(variant))
