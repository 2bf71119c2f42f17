"""Progress events of a worker, limited in number."""

from __future__ import annotations

import time

from em.runtime.events import Emitter


class ProgressShown:
    """Sends the progress of one job, at most once per SHOW_EVERY_S if the caller checks `due` first."""

    def __init__(self, emit: Emitter, job: str) -> None:
        self._emit, self._job, self._at = emit, job, 0.0
        self._sent: tuple[int, int, str] | None = None

    def due(self) -> bool:
        return time.monotonic() - self._at > SHOW_EVERY_S

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self._at = time.monotonic()
        if self._sent != (done, total, note):
            self._sent = done, total, note
            self._emit.progress(self._job, done, total, note)


WHOLE_BATCH = "all answers"
"""Job name of the progress over all jobs of a batch."""
SHOW_EVERY_S = 0.2
"""Least seconds between two progress events."""
