"""runtime.disk."""

from __future__ import annotations

import errno


def is_disk_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def cannot_write(error: OSError) -> bool:
    """The place is full, read-only or not ours: for a person to mend, no fault of the program."""
    return is_disk_full(error) or error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
