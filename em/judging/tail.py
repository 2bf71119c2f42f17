"""Read the answers of one sample stage while the sampler writes them (`SampleTail`)."""

from __future__ import annotations

import contextlib
import json
import os
from array import array
from collections.abc import Iterator
from typing import IO

import numpy as np

from em.judging.spool import row_hash
from em.records import Completion
from em.store import Store, from_row, read_jsonl
from em.store.checked_rows import WIDTH, checksum, checksums_path
from em.store.layout import COMPLETIONS


class SampleTail:
    """The answers of one sample stage, first from the growing file in its work folder, then from the sealed file.

    Call `new_answers` again and again until `ended` is true. Each answer comes once.
    """

    def __init__(self, store: Store, key: str) -> None:
        """`key`: key of the sample stage."""
        self.key = key
        self.ended = False
        """Whether every answer of the sealed stage has been read."""
        self._store = store
        self._file: IO[bytes] | None = None
        self._sums: IO[bytes] | None = None
        """Checksums of the rows in the growing file; None for the sealed file."""
        self._offset, self._number = 0, 0
        self._seen: array[int] | None = array("Q")
        """Hashes of the answers read from the growing file; None if only the sealed file is read."""

    def new_answers(self) -> Iterator[Completion]:
        """Yield the answers that were written since the last call.

        Raises ValueError if a row with the right checksum is not an answer.
        """
        sealed = self._store.has("sample", self.key)  # checked first: a sealed file does not grow any more
        if self._file is None and not self._open(sealed):
            return
        for completion in self._read_lines():
            if self._seen is not None:
                self._seen.append(row_hash(completion.id))
            yield completion
        if sealed:
            yield from self._unseen_answers()
            self.close()
            self.ended = True

    def close(self) -> None:
        for file in (self._file, self._sums):
            if file is not None:
                file.close()

    def _open(self, sealed: bool) -> bool:
        """Open the sealed or the growing file. Return whether there was one."""
        if sealed:
            self._file, self._seen = (self._store.path("sample", self.key) / COMPLETIONS).open("rb"), None
            return True
        path = self._store.partial("sample", self.key) / COMPLETIONS
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as opened:
            files = [opened.enter_context(p.open("rb")) for p in (path, checksums_path(path))]
            self._file, self._sums = files
            opened.pop_all()
            return True
        return False  # no answer yet, or the stage was sealed a moment ago

    def _read_lines(self) -> Iterator[Completion]:
        """Yield the complete lines after the last one read.

        A line that does not match its checksum is skipped: the sampler samples that answer again, or reports the
        damage.
        """
        assert self._file is not None
        for file, at in ((self._file, self._offset), (self._sums, self._number * WIDTH)):
            if file is not None:
                file.seek(0, os.SEEK_END)  # a seek inside the buffer would show bytes that were cut off since
                file.seek(at)
        for line in self._file:
            written = self._sums.read(WIDTH) if self._sums else checksum(line)
            if not line.endswith(b"\n") or len(written) < WIDTH:
                return  # read again next time: it may grow, or a restarted sampler may cut it off
            self._offset += len(line)
            self._number += 1
            if written != checksum(line):
                continue
            try:
                completion = from_row(Completion, json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{self._file.name}: before byte {self._offset}: not an answer ({error})") from error
            yield completion

    def _unseen_answers(self) -> Iterator[Completion]:
        """Yield the answers of the sealed file that were not in the growing file. There are some only if somebody
        removed the growing file meanwhile."""
        if self._seen is None:
            return
        seen = np.sort(np.frombuffer(self._seen, dtype=np.uint64)) if self._seen else np.empty(0, np.uint64)
        for completion in read_jsonl(self._store.path("sample", self.key) / COMPLETIONS, Completion):
            name = np.uint64(row_hash(completion.id))
            at = int(np.searchsorted(seen, name))
            if at == len(seen) or seen[at] != name:
                yield completion
