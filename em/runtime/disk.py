"""Errors of the disk that are not faults of the program."""

from __future__ import annotations

import errno


def is_disk_full(error: OSError) -> bool:
    """Whether the disk or the user's quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def cannot_write(error: OSError) -> bool:
    """Whether the disk is full, read-only or forbidden to us, so that a person must fix it."""
    return is_disk_full(error) or error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
