"""Row files that grow during a stage, with the CRC-32 of each row in a second file.

completions.jsonl has one row per line, completions.crc one checksum per line. A killed process may leave a truncated
last row, and a bad disk may change any row: the next start keeps the rows that match and makes the others again.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any

from em.store.jsonl import dump_line

WIDTH = 9
"""Bytes per line of the checksum file."""


def checksums_path(path: Path) -> Path:
    """Return the path of a row file's checksums. The file is removed at the end: then the manifest has a sha256."""
    return path.with_suffix(".crc")


def checksum(line: bytes) -> bytes:
    """Return the line of the checksum file for a row's line."""
    return b"%08x\n" % zlib.crc32(line)


class RowWriter:
    """A row file, open for appending."""

    def __init__(self, path: Path) -> None:
        self._rows, self._sums = path.open("ab"), checksums_path(path).open("ab")

    def append(self, record: Any) -> None:
        """Write one row and flush it: another process may be reading the file."""
        line = dump_line(record).encode("utf-8")
        # the row first: a checksum must never be without its row
        for file, data in ((self._rows, line), (self._sums, checksum(line))):
            file.write(data)
            file.flush()

    def close(self) -> None:
        """Close both files."""
        self._rows.close()
        self._sums.close()


def read(path: Path) -> tuple[list[bytes], list[bytes]]:
    """Return (rows that match their checksum, rows that do not), each with its newline, without a truncated end.

    Both are empty if there are no checksums: the process was killed between their removal and the end of the stage.
    Rows and checksums may be in different orders: a stage sorts its rows just before its end.
    """
    if not path.exists() or not checksums_path(path).exists():
        return [], []
    lines, sums = (p.read_bytes().split(b"\n")[:-1] for p in (path, checksums_path(path)))
    left = Counter(sums)
    good, bad = [], []
    for number, line in enumerate(lines):
        row = line + b"\n"
        own = checksum(row)[:-1]
        if left[own] > 0:
            left[own] -= 1
            good.append(row)
        elif number < len(sums) or number + 1 < len(lines):
            bad.append(row)  # only the last row may lack its checksum, because of a kill
    return good, bad


def intact_start(path: Path) -> list[bytes]:
    """Return the rows before the first one that does not match its checksum."""
    good, bad = read(path)
    if not bad:
        return good
    pairs = zip(path.read_bytes().split(b"\n"), good, strict=False)
    return [row for _, row in takewhile(lambda pair: pair[0] + b"\n" == pair[1], pairs)]


def keep_only(path: Path, rows: Iterable[bytes]) -> None:
    """Reduce a row file to `rows`, some of its own. If these are its first rows, other readers of it can go on."""
    kept = list(rows)
    text, sums = b"".join(kept), b"".join(map(checksum, kept))
    for file, wanted in ((path, text), (checksums_path(path), sums)):
        if not file.exists() or not file.read_bytes().startswith(wanted):
            temporary = file.with_name(f".{file.name}")
            temporary.write_bytes(wanted)
            os.replace(temporary, file)
        else:
            os.truncate(file, len(wanted))


def remove_checksums(path: Path) -> None:
    """Remove the checksums at the end of a stage: its manifest has a sha256."""
    checksums_path(path).unlink(missing_ok=True)
