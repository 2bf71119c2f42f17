"""Files of rows that grow while a stage is under way, each row with its CRC-32 in a second file.

    completions.jsonl      a row a line
    completions.crc        its checksum a line, removed when the stage is sealed (then the manifest has a sha256)

A killed process leaves whole rows and perhaps a torn one; a bad disk may change any. Whoever goes on keeps the rows
that are as they were written and makes the others again.
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
"""Bytes of a checksum's line."""


def sums_of(path: Path) -> Path:
    """Where the checksums of a growing file are."""
    return path.with_suffix(".crc")


def checksum(line: bytes) -> bytes:
    """The line of sums that belongs to a row's line."""
    return b"%08x\n" % zlib.crc32(line)


class Rows:
    """A growing file, open for more."""

    def __init__(self, path: Path) -> None:
        self._rows, self._sums = path.open("ab"), sums_of(path).open("ab")

    def append(self, record: Any) -> None:
        """Write one row at once: somebody may be reading along."""
        line = dump_line(record).encode("utf-8")
        for file, data in ((self._rows, line), (self._sums, checksum(line))):  # in this order: no sum without its row
            file.write(data)
            file.flush()

    def close(self) -> None:
        self._rows.close()
        self._sums.close()


def read(path: Path) -> tuple[list[bytes], list[bytes]]:
    """(rows that are as they were written, rows that are not), each with its newline; a torn end is in neither.

    Nothing where there are no checksums: a kill fell between their removal and the sealing. Rows may have been put in
    another order since (a stage that was about to be sealed).
    """
    if not path.exists() or not sums_of(path).exists():
        return [], []
    lines, sums = (p.read_bytes().split(b"\n")[:-1] for p in (path, sums_of(path)))
    left = Counter(sums)
    good, bad = [], []
    for number, line in enumerate(lines):
        row = line + b"\n"
        own = checksum(row)[:-1]
        if left[own] > 0:
            left[own] -= 1
            good.append(row)
        elif number < len(sums) or number + 1 < len(lines):
            bad.append(row)  # the last one alone may have lost its sum to a kill
    return good, bad


def first(path: Path) -> list[bytes]:
    """The rows before the first that is not as it was written."""
    good, bad = read(path)
    if not bad:
        return good
    pairs = zip(path.read_bytes().split(b"\n"), good, strict=False)
    return [row for _, row in takewhile(lambda pair: pair[0] + b"\n" == pair[1], pairs)]


def keep(path: Path, rows: Iterable[bytes]) -> None:
    """Cut a growing file down to these of its rows. Where they are its first, whoever reads along can go on."""
    kept = list(rows)
    text, sums = b"".join(kept), b"".join(map(checksum, kept))
    for file, wanted in ((path, text), (sums_of(path), sums)):
        if not file.exists() or not file.read_bytes().startswith(wanted):
            temporary = file.with_name(f".{file.name}")
            temporary.write_bytes(wanted)
            os.replace(temporary, file)
        else:
            os.truncate(file, len(wanted))


def remove_sums(path: Path) -> None:
    """At the end: what is sealed has a sha256."""
    sums_of(path).unlink(missing_ok=True)
