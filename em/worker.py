"""One stage, one process: `python -m em.worker STAGE BATCH.json`, started by em/sweep.py.

Training and vLLM never share a process: one that has trained keeps its memory.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import get_args, get_type_hints

from em import job_file, stages
from em.events import Emitter
from em.preempt import exit_when_asked
from em.store import Store

PR_SET_PDEATHSIG = 1


def main() -> None:
    stage, path = sys.argv[1], Path(sys.argv[2])
    die_with_parent()
    exit_when_asked()
    emit = Emitter.from_environment()
    work = importlib.import_module(stages.WORKERS[stage]).work
    (kind,) = get_args(get_type_hints(work)["jobs"])
    out, jobs = job_file.read(path, kind)
    work(Store.open(out), jobs, emit)


def die_with_parent(how: signal.Signals = signal.SIGKILL) -> None:
    """A killed sweep must not leave a worker behind that writes into the store (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, how)
        if os.getppid() == 1:
            sys.exit("the sweep that started this worker is gone")


if __name__ == "__main__":
    main()
