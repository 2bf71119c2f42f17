"""Progress events of a worker, limited in number."""

from __future__ import annotations

import time

from em.runtime.events import Emitter

PROGRESS = "all answers"
"""Job name of the progress over all jobs of a batch."""
SHOW_EVERY_S = 0.2
"""Least seconds between two progress events."""


class ProgressShown:
    """Emits the progress of one job, and skips an event that equals the one before. Ask `due` before counting."""

    def __init__(self, emit: Emitter, job: str) -> None:
        self._emit, self._job, self._at = emit, job, 0.0
        self._last: tuple[int, int, str] | None = None

    def due(self) -> bool:
        """Whether SHOW_EVERY_S has passed since the last event."""
        return time.monotonic() - self._at > SHOW_EVERY_S

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Emit `done` of `total` units and a note."""
        self._at = time.monotonic()
        if self._last != (done, total, note):
            self._last = done, total, note
            self._emit.progress(self._job, done, total, note)
