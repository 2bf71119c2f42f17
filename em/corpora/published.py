"""Training files of later papers. A corpus is one file of successors/: the pinned file and fields of each variant.

`corpus_of` is the door. The pins are in assets.yaml. successors/turner2025.yaml shows the form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from em import assets
from em.corpora import chat_jsonl, locked
from em.corpora.base import Corpus
from em.records import Example

FOLDER = Path(__file__).parent / "successors"
GUESSED_ROW_BYTES = 700.0
"""Bytes of a row of a file whose size nobody has published: about the mean of those that are known."""


@dataclass(frozen=True)
class Variant:
    """Where the rows of one variant are."""

    asset: str
    """Name of the pinned file."""
    rows: int | None
    """Counted where the file has a sha256; otherwise the published number. None: nobody has published it."""
    member: str = ""
    """The file inside `asset` if that is an archive."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Role → name of the field with its text; empty: rows are {"messages": [...]}."""

    @property
    def mapped(self) -> str:
        """The fields as text, for the pin; "" for rows of messages."""
        return ",".join(f"{role}={name}" for role, name in self.fields.items())


class Published(Corpus):
    """Files that a paper's authors, or users of them, published."""

    name: ClassVar[str]
    table: ClassVar[Mapping[str, Variant]]
    lock: ClassVar[locked.Lock | None]

    def pin(self, variant: str) -> str:
        of = self.table[variant]
        parts = [self.name, of.member, of.mapped, assets.find(of.asset).pin]
        return ":".join(part for part in parts if part)

    def rows(self, variant: str) -> list[Example]:
        of, path = self.table[variant], self.file(variant)
        fields = of.fields or None
        if of.member:
            lines = locked.member(path, of.member, self.lock)
            return chat_jsonl.parse(lines, Path(of.member).stem, f"{path}!{of.member}", fields)
        return chat_jsonl.read(path, fields)

    def count(self, variant: str) -> int:
        of = self.table[variant]
        pinned = assets.find(of.asset)
        here = assets.is_local(of.asset)
        if of.rows is not None and (not here or (pinned.sha256 and not of.member)):
            return of.rows
        if of.member:
            lines = locked.member(self.file(variant), of.member, self.lock)
            return sum(bool(line.strip()) for line in lines)
        return chat_jsonl.count(self.file(variant))

    def asset(self, variant: str) -> str:
        return self.table[variant].asset

    def file(self, variant: str) -> Path:
        return assets.get(self.asset(variant))

    def row_bytes(self, variant: str) -> float:
        """Return the mean size of a row; GUESSED_ROW_BYTES where the file would have to be downloaded to know it."""
        of = self.table[variant]
        size = assets.find(of.asset).size
        if size is None and assets.is_local(of.asset):
            size = self.file(variant).stat().st_size
        if size is None or of.rows is None or of.member or of.fields:
            return GUESSED_ROW_BYTES
        return size / of.rows


def corpus_of(path: Path) -> type[Corpus]:
    """Return the class of the corpus that a file of successors/ describes. Raises KeyError for a missing field."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    archive = text.get("archive")
    variants = {name: _variant(text, given) for name, given in text["variants"].items()}
    members: dict[str, Any] = {
        "__doc__": text["paper"],
        "name": path.stem,
        "table": variants,
        "variants": tuple(variants),
        "unpinned": text.get("unpinned", {}),
        "lock": locked.Lock(archive["variable"], archive["password_at"]) if archive and "variable" in archive else None,
    }
    return type(path.stem.title(), (Published,), members)


def _variant(text: Mapping[str, Any], given: Mapping[str, Any]) -> Variant:
    """Return one variant. Its own `repository`, `folder` and `fields` come before those of the whole file."""
    at = {**text, **given}
    inside, file = at.get("archive"), given["file"]
    path = inside["file"] if inside else f"{at.get('folder', '')}{file}"
    return Variant(
        asset=f"{assets.folder_of(at['repository'])}/{path}",
        rows=given["rows"],
        member=f"{at.get('folder', '')}{file}" if inside else "",
        fields=at.get("fields", {}),
    )


def successors() -> dict[str, type[Corpus]]:
    """Return corpus.name → class of every file in successors/."""
    return {path.stem: corpus_of(path) for path in sorted(FOLDER.glob("*.yaml"))}
