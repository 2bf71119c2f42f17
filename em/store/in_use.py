"""Who uses a folder now: running sweeps share it, `em rm` and `em gc` need it alone. Held by the kernel's file locks.

A lock ends with its process, however that ends. On a file system without such locks nothing is removed. A lock of a
folder is known on its own machine only, also on a network file system.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from em.store.store import StoreError


@contextmanager
def shared(*folders: Path) -> Iterator[None]:
    """Hold folders together with others that use them. Waits while one of them is held alone."""
    with ExitStack() as held:
        for folder in folders:
            held.enter_context(_locked(folder, fcntl.LOCK_SH))
        yield


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder alone. Raises StoreError if somebody uses it, or if that cannot be found out."""
    try:
        with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield
    except BlockingIOError as error:
        raise StoreError(f"a sweep that uses {folder} is running: nothing was removed; wait until it ends") from error


def is_used(folder: Path) -> bool:
    """Whether a running process shares the folder."""
    try:
        with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
    except BlockingIOError:
        return True


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            raise
        except OSError as error:
            if how & fcntl.LOCK_EX:
                raise StoreError(f"{folder} is on a file system without locks ({error.strerror})") from error
        yield
    finally:
        os.close(handle)
