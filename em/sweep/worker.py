"""Run one stage in one process: `python -m em.sweep.worker STAGE BATCH.json`. sweep/scheduler.py starts it.

Training and vLLM never share a process, because a process that has trained keeps its memory.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import get_args, get_type_hints

from em.planning import stages
from em.runtime.cuda import missing_gpus
from em.runtime.events import Emitter
from em.runtime.preempt import exit_on_stop
from em.runtime.process import die_with_parent
from em.store import Store, job_file


def main() -> None:
    stage, path = sys.argv[1], Path(sys.argv[2])
    die_with_parent()
    exit_on_stop()
    emit = Emitter.from_environment()
    if error := missing_gpus():  # before the imports of the stage, which take seconds
        sys.stderr.write(f"{error}\n")  # first: the sweep kills a worker that reports a lost GPU
        for key in job_file.keys(path):
            emit.failed(key, error)
        sys.exit(1)
    work = importlib.import_module(stages.WORKERS[stage]).work
    (kind,) = get_args(get_type_hints(work)["jobs"])
    out, jobs = job_file.read(path, kind)
    work(Store.open(out), jobs, emit)


if __name__ == "__main__":
    main()
