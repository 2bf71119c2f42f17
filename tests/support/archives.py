"""Made archives of training files, locked as easy-dataset-share 0.5.0 locks them."""

from __future__ import annotations

import base64
import io
import os
import zipfile
from collections.abc import Mapping

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

PASSWORD = "open sesame"


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    """Return a zip file of name → content."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return held.getvalue()


def lock(content: bytes, password: str = PASSWORD) -> bytes:
    """Lock bytes as easy-dataset-share does."""
    salt = os.urandom(16)
    key = PBKDF2HMAC(algorithm=SHA256(), length=32, salt=salt, iterations=100_000).derive(password.encode())
    return salt + Fernet(base64.urlsafe_b64encode(key)).encrypt(content)
