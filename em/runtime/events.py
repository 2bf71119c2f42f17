"""Events from a worker to its sweep: JSON lines on a pipe. Only the sweep writes to the terminal."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from em.runtime.disk import is_disk_full

FD_VARIABLE = "EM_EVENTS_FD"
NO_SPACE = "No space left on device"
FIFO_VARIABLE = "EM_EVENTS_FIFO"
"""Path of a named pipe, for a launcher in between that closes file descriptors (see training/launch)."""


@dataclass
class Emitter:
    """Writes the events of one worker. A worker runs each of its jobs inside `job`."""

    write: Callable[[str], Any]

    @classmethod
    def from_environment(cls) -> Emitter:
        """Return an emitter on the sweep's pipe, or on stderr if a person started this process.

        Of several processes of one run, only the first emits events.
        """
        if os.environ.get("RANK", "0") != "0":
            return cls(lambda _: None)
        if fifo := os.environ.get(FIFO_VARIABLE):
            return cls(open(fifo, "w", buffering=1, encoding="utf-8").write)
        number = os.environ.get(FD_VARIABLE)
        if number is None:
            return cls(sys.stderr.write)
        return cls(os.fdopen(int(number), "w", buffering=1, encoding="utf-8").write)

    def _event(self, kind: str, **fields: Any) -> None:
        self.write(json.dumps({"event": kind, **fields}, ensure_ascii=False) + "\n")

    def started(self, job: str) -> None:
        """Report the start of a job; `job` is its key."""
        self._event("started", job=job)

    def progress(self, job: str, done: int, total: int, note: str = "") -> None:
        """Report `done` of `total` units of one job, e.g. optimiser steps or answers."""
        self._event("progress", job=job, done=done, total=total, note=note)

    def done(self, job: str) -> None:
        """Report a finished job."""
        self._event("done", job=job)

    def failed(self, job: str, error: str) -> None:
        """Report a failed job with its error message."""
        self._event("failed", job=job, error=error)

    def warn(self, text: str) -> None:
        """Report something that a person should know and that stops nothing."""
        self._event("warning", text=text)

    def count(self, name: str, by: int = 1) -> None:
        """Add `by` to one of the sweep's counters (summary.json)."""
        self._event("count", name=name, by=by)

    @contextmanager
    def job(self, job: str) -> Iterator[None]:
        """Run one job inside. An error becomes a `failed` event, its traceback goes to the log, and other jobs go
        on."""
        self.started(job)
        try:
            yield
        except Exception as error:  # noqa: BLE001  one failed cell must not stop the others
            traceback.print_exc()
            self.failed(job, error_message(error))
        else:
            self.done(job)


def error_message(error: BaseException) -> str:
    """Return the message of an error as one line."""
    # safetensors raises an error type of its own for a full disk
    if (isinstance(error, OSError) and is_disk_full(error)) or NO_SPACE in str(error):
        return f"the disk is full ({getattr(error, 'filename', None) or NO_SPACE}): free some, or change out="
    text = " ".join(str(error).split())
    return text if text and isinstance(error, ValueError | RuntimeError) else f"{type(error).__name__}: {text}"
