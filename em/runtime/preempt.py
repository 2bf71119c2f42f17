"""Being asked to stop: SIGTERM or SIGUSR2 make a run save what it has and end; the same command continues later.

Who asks: SLURM ahead of a time limit (SIGUSR2) or when it takes the node away (SIGTERM), Kubernetes and spot machines
(SIGTERM). SLURM signals every process of a job, others only the first one, so a sweep passes the signal on. A sweep's
own process stops where it stands; a worker that has a step boundary to reach sets a flag and looks at it there; any
other worker ends at once, its rows are on disk. Imports nothing heavy.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

PREEMPTED = 75
"""Exit code of a process that was asked to stop and can be continued: EX_TEMPFAIL, "try again later" (sysexits.h)."""
SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
STOP_FILE_VARIABLE = "EM_STOP_FILE"
"""A file whose appearance asks the processes of one run to stop: whoever started them passes its own signal on so."""

_asked = False


class Preempted(KeyboardInterrupt):
    """Raised in a sweep's own process where it stands, like Ctrl-C. Nothing that catches Exception catches it."""

    def __init__(self, number: int | None = None) -> None:
        """`number` is the signal that came; None when a worker was asked instead of the sweep."""
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name}" if number else "a worker was asked to stop")


@contextmanager
def raised_when_asked() -> Iterator[None]:
    """For the process of a sweep: inside, the first signal raises Preempted; later ones do not disturb the saving."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.getsignal(name) for name in SIGNALS}

    def handler(number: int, frame: FrameType | None) -> None:
        for name in SIGNALS:
            signal.signal(name, signal.SIG_IGN)
        raise Preempted(number)

    for name in SIGNALS:
        signal.signal(name, handler)
    try:
        yield
    except Preempted:  # this process is about to end
        raise
    except BaseException:
        _restore(before)
        raise
    _restore(before)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for name, handler in handlers.items():
        signal.signal(name, handler)


def exit_when_asked() -> None:
    """For a worker whose rows are on disk already: it ends. A stage that must reach a step boundary installs a flag."""
    for name in SIGNALS:
        signal.signal(name, lambda number, frame: sys.exit(PREEMPTED))


def install(pass_on: Path | None = None) -> None:
    """Take SIGUSR2 and SIGTERM as requests that set a flag, and make the stop file `pass_on`. Main thread only."""

    def ask(number: int, frame: FrameType | None) -> None:
        global _asked
        _asked = True
        if pass_on:
            pass_on.touch()

    for number in SIGNALS:
        signal.signal(number, ask)


def requested() -> bool:
    """Whether this process was asked to stop."""
    path = os.environ.get(STOP_FILE_VARIABLE)
    return _asked or (path is not None and Path(path).exists())
