"""Content-keyed stage directories: claim, lock, finish, read.

    <out>/store/store.json                 {"format": 2}: a folder that is not ours, or newer, is refused
    <out>/store/<stage>/<key>/             a finished stage; holds manifest.json
    <out>/store/<stage>/<key>.partial/     work in progress, kept after a kill so that the next start continues
    <out>/store/damaged/<stage>/           stages that no longer match their manifest, rows that do not match their
                                           checksums (store/checked_rows.py); nothing reads them

A key is the hash of everything that could change the output and nothing else. A directory appears under its final
name in one rename, with its manifest inside, so "exists" means "complete". A file lock beside it lets two
processes that want the same stage do it once.
"""

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

FORMAT = 2
"""2: manifests carry a seal, the hash of their own content."""
SWEEP_FORMAT = 2
"""Of a sweep folder's sweep.json. 2: cells have a kind, stages their amount of work."""
MANIFEST = "manifest.json"


class StoreError(UserError, RuntimeError):
    """The store cannot be used; the message says what to do."""


class DamagedError(StoreError):
    """A finished stage does not match its manifest; the message names the file."""


def content_key(**inputs: Any) -> str:
    """20 hex digits (80 bits) of the sha256 of the inputs as canonical JSON."""
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, text: str) -> None:
    """Write a small file under a temporary name and rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:  # a full disk leaves half a file
        temporary.unlink(missing_ok=True)
        raise


def _seal(manifest: dict[str, Any]) -> str:
    """sha256 over a manifest's content, the seal itself left out."""
    text = json.dumps({k: v for k, v in manifest.items() if k != "seal"}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Store:
    root: Path

    @classmethod
    def open(cls, out: Path) -> Store:
        """The store below `out`, made if absent. Refuses a foreign folder and one of a newer format."""
        root = out / "store"
        marker = root / "store.json"
        if root.exists() and not root.is_dir():
            raise StoreError(f"{root} is not a folder; change out=")
        if not marker.exists():
            # a temporary marker of ours may be left by a kill during the very first start
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
            raise StoreError(f"{marker} is not readable as a store marker ({error}); change out= or mend it") from error
        if found != FORMAT:
            raise StoreError(
                f"{root} has store format {found}, this version of em knows {FORMAT}: "
                f"use the em that wrote it, or another out="
            )
        return cls(root)

    @classmethod
    def look(cls, out: Path) -> Store:
        """`open` for who only reads: makes nothing where there is no store yet."""
        root = out / "store"
        return cls.open(out) if (root / "store.json").exists() else cls(root)

    def path(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        return (self.path(stage, key) / MANIFEST).is_file()

    def partial(self, stage: str, key: str) -> Path:
        final = self.path(stage, key)
        return final.with_name(final.name + ".partial")

    def manifest(self, stage: str, key: str) -> dict[str, Any]:
        """A finished stage's manifest. Raises DamagedError when it is not as it was written."""
        path = self.path(stage, key) / MANIFEST
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
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
        """Finished keys of a stage; `below` lists the sub-keys of one family, e.g. its sample ranges."""
        folder = self.root / stage / below
        if not folder.is_dir():
            return []
        prefix = f"{below}/" if below else ""
        return sorted(f"{prefix}{d.name}" for d in folder.iterdir() if _finished(d))

    @contextmanager
    def claim(self, stage: str, key: str) -> Iterator[Path | None]:
        """Hold the stage's lock. Yields the work directory, or None when another process has finished it meanwhile.

        Leaving without `finish` keeps the work directory for the next start.
        """
        final = self.path(stage, key)
        final.parent.mkdir(parents=True, exist_ok=True)
        from filelock import FileLock  # not for who only reads

        with FileLock(str(final) + ".lock"):
            if self.has(stage, key):
                yield None
                return
            work = self.partial(stage, key)
            work.mkdir(exist_ok=True)
            yield work

    def finish(
        self, stage: str, key: str, inputs: dict[str, Any], facts: dict[str, Any], until_sealed: Path | None = None
    ) -> Path:
        """Seal the work directory: hash its files, write the manifest, rename it into place.

        `inputs` is what the key was made of, `facts` what the run found out (counts, versions, times). `until_sealed`:
        a file of the directory that is no part of the stage; it is there until nothing but the renaming is left.
        """
        work, final = self.partial(stage, key), self.path(stage, key)
        for left in work.glob(f".{MANIFEST}.*"):  # of a process killed while it wrote one
            left.unlink()
        files = {
            str(p.relative_to(work)): {"bytes": p.stat().st_size, "sha256": file_sha256(p)}
            for p in sorted(work.rglob("*"))
            if p.is_file() and p.name != MANIFEST and p != until_sealed
        }
        manifest = {"format": FORMAT, "stage": stage, "key": key, "inputs": inputs, "facts": facts, "files": files}
        manifest["seal"] = _seal(json.loads(json.dumps(manifest)))  # as it will be read: tuples are lists then
        write_atomic(work / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        if final.exists():  # an unsealed folder under the final name can only be somebody's hand
            raise StoreError(f"{final} exists without a manifest: move it away and run again")
        if until_sealed:
            until_sealed.unlink(missing_ok=True)
        os.rename(work, final)
        Path(str(final) + ".lock").unlink(missing_ok=True)
        return final

    def drop_partial(self, stage: str, key: str) -> None:
        shutil.rmtree(self.partial(stage, key), ignore_errors=False)

    def verify(self, stage: str, key: str, only: Collection[str] = ()) -> None:
        """Compare every file, or `only` these, with the manifest. Raises DamagedError naming the first that differs."""
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
        """Raise StoreError when nothing can be written: known before hours of work, not after."""
        try:
            write_atomic(probe := self.root / f".probe.{os.getpid()}", "")
            probe.unlink()
        except OSError as error:
            raise StoreError(f"cannot write to {self.root} ({error.strerror}); change out=") from error

    def set_aside(self, stage: str, key: str) -> Path | None:
        """Move a damaged stage below damaged/, so that it is made again. Returns where it is now.

        None when another process has done it meanwhile. Raises StoreError when the store cannot be written.
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
                f"{final} is damaged and cannot be moved away ({error.strerror}): mend {self.root}"
            ) from error
        return target

    def set_rows_aside(self, stage: str, key: str, rows: Iterable[bytes]) -> Path:
        """Put damaged rows of a stage under way below damaged/, for whoever wants to see them. Returns where."""
        target = self._aside(stage, key)
        target.write_bytes(b"".join(rows))
        return target

    def _aside(self, stage: str, key: str) -> Path:
        """A free name below damaged/."""
        folder, name = self.root / "damaged" / stage, key.replace("/", ".")
        folder.mkdir(parents=True, exist_ok=True)
        return next(p for n in count(1) if not (p := folder / f"{name}.{n}").exists())


def _finished(folder: Path) -> bool:
    """A manifest under a final name; one in a `.partial` is of a process killed just before the rename."""
    return not folder.name.endswith(".partial") and (folder / MANIFEST).is_file()


def require_space(path: Path, needed: int, why: str) -> None:
    """Raise StoreError when the disk below `path` has less than `needed` bytes free."""
    folder = path
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StoreError(
            f"{folder} has {free / 1e9:.1f} GB free and {why} needs {needed / 1e9:.1f} GB: free some, or change out="
        )
