"""One stage, one process: `python -m em.worker STAGE BATCH.json`, started by em/sweep.py.

Training and vLLM never share a process: one that has trained keeps its memory.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from pathlib import Path

from em.events import Emitter
from em.preempt import exit_when_asked
from em.store import Store

MODULES = {
    "prepare": "em.prepare",
    "train": "em.train",
    "finetune": "em.openai_finetune",
    "sample": "em.sample",
    "judge": "em.judge",
    "track": "em.tracking",
    "live": "em.track_live",
    "benchmark": "em.benchmark",
}
PR_SET_PDEATHSIG = 1


def main() -> None:
    stage, path = sys.argv[1], Path(sys.argv[2])
    die_with_parent()
    exit_when_asked()
    batch = json.loads(path.read_text(encoding="utf-8"))
    emit = Emitter.from_environment()
    importlib.import_module(MODULES[stage]).work(Store.open(Path(batch["out"])), batch["jobs"], emit)


def die_with_parent(how: signal.Signals = signal.SIGKILL) -> None:
    """A killed sweep must not leave a worker behind that writes into the store (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, how)
        if os.getppid() == 1:
            sys.exit("the sweep that started this worker is gone")


if __name__ == "__main__":
    main()
