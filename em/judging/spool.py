"""A file for judgements in the order in which they come (`Spool`), written out in the order of the answers.

Memory per judgement is 16 bytes, so a stage of a million verdicts needs hardly more than one of a thousand.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from em.judging import json_codec
from em.records import Judgement

CHUNK = 8192
LINE = 2048
"""Bytes that most rows fit in."""


def row_hash(*names: str) -> int:
    """Return a hash of the names, 64 bits."""
    return int.from_bytes(hashlib.blake2b("\0".join(names).encode("utf-8", "replace"), digest_size=8).digest(), "big")


class Spool:
    """One job's judgements. A new start begins with an empty spool: the verdicts before a kill are in the cache."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcomes: dict[str, Counter[str]] = {}
        """rubric → outcome → count."""
        self._file = path.open("wb")
        self._hashes, self._offsets = array("Q"), array("Q")
        self._end = 0

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, judgement: Judgement) -> None:
        line = json_codec.dumps(vars(judgement)) + b"\n"
        self._hashes.append(row_hash(judgement.completion_id, judgement.rubric))
        self._offsets.append(self._end)
        self._file.write(line)
        self._end += len(line)
        self.outcomes.setdefault(judgement.rubric, Counter())[judgement.outcome.value] += 1

    def write_sorted(self, wanted: Iterable[tuple[str, str]], path: Path) -> int:
        """Write one line per wanted (completion id, rubric), in that order. Remove the spool. Return the number of
        lines.

        Raises RuntimeError if an answer was judged twice or not at all, or if a judgement is not wanted.
        """
        self._file.close()
        hashes = np.frombuffer(self._hashes, dtype=np.uint64) if self._hashes else np.empty(0, np.uint64)
        order = np.argsort(hashes, kind="stable").astype(np.uint32 if len(hashes) < 2**32 else np.uint64)
        hashes = hashes[order]
        twice = np.flatnonzero(hashes[1:] == hashes[:-1])
        if len(twice):
            line = self._line_at(int(self._offsets[order[twice[0]]]))
            raise RuntimeError(f"{len(twice)} answers were judged twice, first {line[:80]!r}")
        count = 0
        with path.open("wb") as file:
            for names, lines in self._found(wanted, hashes, order):
                lost = [name for name, line in zip(names, lines, strict=True) if not line]
                if lost:
                    raise RuntimeError(f"{len(lost)} answers came back without a judgement, first {lost[0]}")
                file.writelines(lines)
                count += len(lines)
        if count != len(hashes):
            raise RuntimeError(f"{len(hashes) - count} judgements belong to no answer of the stage")
        self.path.unlink()
        return count

    def _found(
        self, wanted: Iterable[tuple[str, str]], hashes: np.ndarray, order: np.ndarray
    ) -> Iterator[tuple[list[tuple[str, str]], list[bytes]]]:
        """Yield chunks of names with their lines; b"" for a name without a judgement."""
        source = iter(wanted)
        with self.path.open("rb", buffering=0) as file:
            while names := list(islice(source, CHUNK)):
                at = np.searchsorted(hashes, np.array([row_hash(*name) for name in names], dtype=np.uint64))
                yield (
                    names,
                    [self._line(file.fileno(), hashes, order, int(i), *n) for i, n in zip(at, names, strict=True)],
                )

    def _line(self, file: int, hashes: np.ndarray, order: np.ndarray, at: int, *name: str) -> bytes:
        if at == len(hashes) or int(hashes[at]) != row_hash(*name):
            return b""
        line = _read_line(file, self._offsets[int(order[at])])
        return line if line.startswith(_head(name[0])) else b""

    def _line_at(self, offset: int) -> str:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.readline().decode("utf-8", "replace")


def _read_line(file: int, start: int) -> bytes:
    """Read one line at a position. (A mapped file would count as memory of this process.)"""
    size = LINE
    while True:
        data = os.pread(file, size, start)
        end = data.find(b"\n") + 1
        if end or len(data) < size:
            return data[:end]
        size *= 4


def _head(completion_id: str) -> bytes:
    """Return how the line of this answer begins."""
    return b'{"completion_id":' + json_codec.dumps(completion_id) + b","
