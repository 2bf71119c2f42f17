"""Stop requests: SIGTERM or SIGUSR2 make a run save its work and end; the same command continues later.

A sweep's own process stops at once and passes the signal on to its workers. A worker that must reach a step boundary
sets a flag and checks it there. Any other worker ends at once, since its rows are on disk.
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
"""Exit code of a process that stopped on request and can be continued: EX_TEMPFAIL of sysexits.h, "try again later"."""
# SLURM sends SIGUSR2 before a time limit and SIGTERM when it takes the node away; Kubernetes and spot machines send
# SIGTERM. SLURM signals every process of a job, the others only the first one.
SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
STOP_FILE_VARIABLE = "EM_STOP_FILE"
"""Path of a file that asks the processes of one run to stop. Their parent creates it to forward its own signal."""

_stop_requested = False


class Preempted(KeyboardInterrupt):
    """Raised in a sweep's own process, at any line, like KeyboardInterrupt. `except Exception` does not catch it."""

    def __init__(self, number: int | None = None) -> None:
        """`number`: the signal that came; None if a worker got the request, not the sweep."""
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name}" if number else "a worker was asked to stop")


@contextmanager
def raise_on_stop() -> Iterator[None]:
    """Raise Preempted at the first signal; ignore later ones, so that they do not disturb the saving.

    For the process of a sweep. Does nothing outside the main thread.
    """
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


def exit_on_stop() -> None:
    """Exit with PREEMPTED at the first signal. For a worker whose rows are already on disk."""
    for name in SIGNALS:
        signal.signal(name, lambda number, frame: sys.exit(PREEMPTED))


def flag_on_stop(pass_on: Path | None = None) -> None:
    """Set the flag of `stop_requested` at a signal, and create the stop file `pass_on`. Main thread only."""

    def ask(number: int, frame: FrameType | None) -> None:
        global _stop_requested
        _stop_requested = True
        if pass_on:
            pass_on.touch()

    for number in SIGNALS:
        signal.signal(number, ask)


def stop_requested() -> bool:
    """Whether this process got a stop request."""
    path = os.environ.get(STOP_FILE_VARIABLE)
    return _stop_requested or (path is not None and Path(path).exists())
