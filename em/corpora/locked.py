"""Archives of training files: a zip file, or one that the authors locked with a password. The door: members.

A locked archive is 16 bytes of salt, then a Fernet token; its key is PBKDF2-HMAC-SHA256 of the password, 100,000
rounds. This is how easy-dataset-share 0.5.0 writes it. It keeps scrapers out; the authors publish the password.
"""

from __future__ import annotations

import base64
import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from em.assets import AssetError
from em.errors import ConfigError

SALT_BYTES, ROUNDS, KEY_BYTES = 16, 100_000, 32
CANARY = b"CANARY_DATASET_"
"""Mark of the lines that the tool adds so that a model that was trained on the archive can be recognised."""


class ArchiveError(AssetError):
    """An archive cannot be opened, or does not have the file that was asked for."""


@dataclass(frozen=True)
class Lock:
    """How a locked archive is opened."""

    variable: str
    """The environment variable that holds the password."""
    password_at: str
    """Where its authors publish the password."""


def member(path: Path, name: str, lock: Lock | None) -> list[bytes]:
    """Return the lines of one file of an archive, without canary lines. `name`: the end of its path in the archive.

    Raises ConfigError if the password is missing, ArchiveError if it is wrong, if the file is no archive, or if not
    exactly one file of the archive has that name.
    """
    stat = path.stat()
    password = _password(path, lock) if lock else ""
    files = _opened(path, stat.st_mtime_ns, lock, password)
    wanted = PurePosixPath(name).parts
    found = [file for file in files if PurePosixPath(file).parts[-len(wanted) :] == wanted]
    if len(found) != 1:
        raise ArchiveError(f"{path} has {len(found)} files called {name}, expected one; it has: {', '.join(files)}")
    return [b"" if CANARY in line else line for line in files[found[0]].split(b"\n")]


def _password(path: Path, lock: Lock) -> str:
    password = os.environ.get(lock.variable, "")
    if not password:
        raise ConfigError(f"{path} is locked: set {lock.variable} to the password, which is in {lock.password_at}")
    return password


@lru_cache(maxsize=2)  # all variants of a sweep are in one archive, and a key takes a tenth of a second
def _opened(path: Path, changed_ns: int, lock: Lock | None, password: str) -> Mapping[str, bytes]:
    """Return name → bytes of the files in an archive. Nothing is written to the disk."""
    content = path.read_bytes()
    if lock:
        content = _unlock(path, content, lock, password)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise ArchiveError(f"{path} is not a zip file that can be read ({error})") from error


def _unlock(path: Path, content: bytes, lock: Lock, password: str) -> bytes:
    from cryptography.fernet import Fernet, InvalidToken
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

    salt, token = content[:SALT_BYTES], content[SALT_BYTES:]
    made = PBKDF2HMAC(algorithm=SHA256(), length=KEY_BYTES, salt=salt, iterations=ROUNDS).derive(password.encode())
    try:
        return Fernet(base64.urlsafe_b64encode(made)).decrypt(token)
    except InvalidToken as error:
        raise ArchiveError(
            f"{path} does not open with the password in {lock.variable}: correct it, see {lock.password_at}"
        ) from error
