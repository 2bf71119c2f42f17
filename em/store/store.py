"""The store: one folder per finished stage, named by the hash of its inputs. `Store.open` is the door.

A key is the hash of everything that could change the output, and of nothing else. A folder gets its final name by one
rename, with its manifest inside, so "exists" means "complete". A file lock lets two processes do one stage once.
"""
# <out>/store/store.json                 {"format": 2}; a folder without it, or with a newer format, is refused
# <out>/store/<stage>/<key>/             a finished stage with its manifest.json
# <out>/store/<stage>/<key>.partial/     work in progress; the next start continues it
# <out>/store/damaged/<stage>/           stages that do not match their manifest, and rows that do not match their
#                                        checksums (see checked_rows); no code reads them

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from em.errors import UserError
from em.store.jsonl import Row

FORMAT = 2
"""2: a manifest has a seal, the hash of its own content."""
SWEEP_FORMAT = 2
"""Format of sweep.json in a sweep folder. 2: cells have a kind, stages their amount of work."""
MANIFEST = "manifest.json"
REMOVED = "removed"
"""Folder of the store that holds what is being deleted."""


class StoreError(UserError, RuntimeError):
    """The store cannot be used; the message says what to do."""


class DamagedError(StoreError):
    """A finished stage does not match its manifest; the message names the file."""


def content_key(**inputs: Any) -> str:
    """Return the first 20 hex digits (80 bits) of the sha256 of the inputs as canonical JSON."""
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, text: str) -> None:
    """Write a small file under a temporary name and rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:  # e.g. a full disk, which leaves half a file
        temporary.unlink(missing_ok=True)
        raise


def _seal(manifest: Row) -> str:
    """Return the sha256 of a manifest's content without its seal."""
    text = json.dumps({k: v for k, v in manifest.items() if k != "seal"}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Store:
    """Finished and partial stages below `root`. Hold a stage with `claim`, complete it with `finish`."""

    root: Path

    @classmethod
    def open(cls, out: Path) -> Store:
        """Return the store below `out`; create it if absent. Raises StoreError for a foreign folder or another
        format."""
        root = out / "store"
        marker = root / "store.json"
        if root.exists() and not root.is_dir():
            raise StoreError(f"{root} is not a folder; change out=")
        if not marker.exists():
            # a process killed during the first start may leave our temporary marker
            if root.exists() and any(not p.name.startswith(".store.json.") for p in root.iterdir()):
                raise StoreError(f"{root} is not empty and holds no store.json: it is not a store of em; change out=")
            try:
                root.mkdir(parents=True, exist_ok=True)
                write_atomic(marker, json.dumps({"format": FORMAT}) + "\n")
            except OSError as error:
                raise StoreError(f"cannot write to {root} ({error.strerror}); change out=") from error
            return cls(root)
        try:
            found = json.loads(marker.read_text())["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{marker} is not readable as a store marker ({error}); change out= or fix it") from error
        if found != FORMAT:
            raise StoreError(
                f"{root} has store format {found}, this version of em knows {FORMAT}: "
                f"use the em that wrote it, or another out="
            )
        return cls(root)

    @classmethod
    def open_read_only(cls, out: Path) -> Store:
        """Return the store for reading only: like `open`, but create nothing."""
        root = out / "store"
        return cls.open(out) if (root / "store.json").exists() else cls(root)

    def path(self, stage: str, key: str) -> Path:
        """Return the folder of a finished stage."""
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Whether the stage is finished."""
        return (self.path(stage, key) / MANIFEST).is_file()

    def partial(self, stage: str, key: str) -> Path:
        """Return the work folder of an unfinished stage."""
        final = self.path(stage, key)
        return final.with_name(final.name + ".partial")

    def manifest(self, stage: str, key: str) -> Row:
        """Return a finished stage's manifest. Raises DamagedError if it was changed, StoreError if there is none."""
        path = self.path(stage, key) / MANIFEST
        try:
            found: Any = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise StoreError(f"{path.parent} is not a finished stage (no {MANIFEST})") from error
        except ValueError as error:
            raise DamagedError(f"{path} is damaged ({error})") from error
        if not isinstance(found, dict) or found.get("seal") != _seal(found):
            raise DamagedError(f"{path} is damaged (it does not match its own seal)")
        if [found["stage"], found["key"]] != [stage, key]:
            raise DamagedError(f"{path} belongs to {found['stage']} {found['key']}: the folder was moved or copied")
        return found

    def keys(self, stage: str, below: str = "") -> list[str]:
        """Return the finished keys of a stage, sorted. `below`: only the sub-keys of one key, e.g. its sample
        ranges."""
        folder = self.root / stage / below
        if not folder.is_dir():
            return []
        prefix = f"{below}/" if below else ""
        return sorted(f"{prefix}{d.name}" for d in folder.iterdir() if _finished(d))

    @contextmanager
    def claim(self, stage: str, key: str) -> Iterator[Path | None]:
        """Hold the stage's lock. Yield the work folder, or None if another process has finished the stage.

        Without `finish`, the work folder stays for the next start.
        """
        final = self.path(stage, key)
        final.parent.mkdir(parents=True, exist_ok=True)
        from filelock import FileLock  # slow to import, and readers do not need it

        with FileLock(str(final) + ".lock"):
            if self.has(stage, key):
                yield None
                return
            work = self.partial(stage, key)
            work.mkdir(exist_ok=True)
            yield work

    def finish(self, stage: str, key: str, inputs: Row, facts: Row, until_sealed: Path | None = None) -> Path:
        """Finish a stage: hash the files of its work folder, write the manifest, rename the folder. Return its path.

        `inputs`: the values behind the key. `facts`: results of the run (counts, versions, times). `until_sealed`: a
        file of the work folder that does not belong to the stage; it is removed just before the rename.
        """
        work, final = self.partial(stage, key), self.path(stage, key)
        for left in work.glob(f".{MANIFEST}.*"):  # of a killed process
            left.unlink()
        files = {
            str(p.relative_to(work)): {"bytes": p.stat().st_size, "sha256": file_sha256(p)}
            for p in sorted(work.rglob("*"))
            if p.is_file() and p.name != MANIFEST and p != until_sealed
        }
        manifest = {"format": FORMAT, "stage": stage, "key": key, "inputs": inputs, "facts": facts, "files": files}
        manifest["seal"] = _seal(json.loads(json.dumps(manifest)))  # as it is read: tuples become lists
        write_atomic(work / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        if final.exists():  # made by a person: em never creates it unsealed
            raise StoreError(f"{final} exists without a manifest: move it away and run again")
        if until_sealed:
            until_sealed.unlink(missing_ok=True)
        os.rename(work, final)
        Path(str(final) + ".lock").unlink(missing_ok=True)
        return final

    def drop_partial(self, stage: str, key: str) -> None:
        """Delete the work folder of an unfinished stage."""
        shutil.rmtree(self.partial(stage, key), ignore_errors=False)

    def remove(self, stage: str, key: str) -> None:
        """Delete a finished or unfinished stage for good. It is renamed first, so no half of it looks finished."""
        from filelock import FileLock

        final, aside = self.path(stage, key), self.root / REMOVED
        aside.mkdir(exist_ok=True)
        with FileLock(str(final) + ".lock"):
            for path in (final, self.partial(stage, key)):
                if path.exists():
                    target = aside / f"{stage}.{path.name}.{os.getpid()}"
                    os.rename(path, target)
                    shutil.rmtree(target)
        Path(str(final) + ".lock").unlink(missing_ok=True)
        if "/" in key and not any(final.parent.iterdir()):
            final.parent.rmdir()

    def verify(self, stage: str, key: str, only: Collection[str] = ()) -> None:
        """Compare every file, or `only` these, with the manifest. Raises DamagedError for the first that differs."""
        folder = self.path(stage, key)
        files = self.manifest(stage, key)["files"]
        for name in only or files:
            path, pin = folder / name, files.get(name)
            if pin is None or not path.is_file():
                raise DamagedError(f"{path} is missing")
            if path.stat().st_size != pin["bytes"]:
                raise DamagedError(f"{path} has {path.stat().st_size} bytes, its manifest says {pin['bytes']}")
            if file_sha256(path) != pin["sha256"]:
                raise DamagedError(f"{path} does not match the sha256 in its manifest")

    def require_writable(self) -> None:
        """Raise StoreError if the store cannot be written. Called before hours of work, not after."""
        try:
            write_atomic(probe := self.root / f".probe.{os.getpid()}", "")
            probe.unlink()
        except OSError as error:
            raise StoreError(f"cannot write to {self.root} ({error.strerror}); change out=") from error

    def set_aside(self, stage: str, key: str) -> Path | None:
        """Move a damaged stage below damaged/, so that it is made again. Return its new path.

        None if another process has moved it. Raises StoreError if the store cannot be written.
        """
        final = self.path(stage, key)
        from filelock import FileLock

        try:
            with FileLock(str(final) + ".lock"):
                if not final.exists():
                    return None
                target = self._aside(stage, key)
                os.rename(final, target)
        except OSError as error:
            raise StoreError(
                f"{final} is damaged and cannot be moved away ({error.strerror}): make {self.root} writable"
            ) from error
        return target

    def set_rows_aside(self, stage: str, key: str, rows: Iterable[bytes]) -> Path:
        """Write damaged rows of an unfinished stage below damaged/, for inspection. Return the path."""
        target = self._aside(stage, key)
        target.write_bytes(b"".join(rows))
        return target

    def _aside(self, stage: str, key: str) -> Path:
        """Return a free path below damaged/."""
        folder, name = self.root / "damaged" / stage, key.replace("/", ".")
        folder.mkdir(parents=True, exist_ok=True)
        return next(p for n in count(1) if not (p := folder / f"{name}.{n}").exists())


def _finished(folder: Path) -> bool:
    """Whether a folder is a finished stage. A `.partial` with a manifest is not: its process was killed before the
    rename."""
    return not folder.name.endswith(".partial") and (folder / MANIFEST).is_file()


def require_space(path: Path, needed: int, why: str) -> None:
    """Raise StoreError if the disk below `path` has less than `needed` bytes free. `why`: the stage, for the
    message."""
    folder = path
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StoreError(
            f"{folder} has {free / 1e9:.1f} GB free and {why} needs {needed / 1e9:.1f} GB: free some, or change out="
        )
