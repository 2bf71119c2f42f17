"""Run benchmarks at their tiny size, two at a time, one line each; of one that fails, its last lines too.

    python benchmarks/run_tiny.py NAME ...

Those that train or sample are forked from this process after it has imported their libraries, once for all.
"""

import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PRELOADED = ("sweep_cost", "sampling", "directions", "interventions", "train_step", "train_gpu")
LIBRARIES = ("em.training.stage", "em.sampling.engines.hf", "vllm.entrypoints.llm", "vllm.v1.worker.cpu_worker")
SIDE_BY_SIDE = 2
LAST_LINES = 30


@dataclass(frozen=True)
class Run:
    """A benchmark that was started."""

    name: str
    process: BaseProcess
    output: Path
    began: float


def preload() -> bool:
    """Import what the benchmarks of PRELOADED need. Returns whether they may be forked from here.

    Not with a CUDA build: a process that is forked after its parent has asked for the GPU cannot use it.
    """
    import torch

    if torch.version.cuda:
        return False
    from em.models.vllm_settings import prepare_environment

    prepare_environment()  # before vLLM is imported
    for library in LIBRARIES:
        import_module(library)
    gc.freeze()  # what is shared with the forked processes stays shared
    return True


def work(name: str, output: Path, forked: bool) -> None:
    """Run a benchmark in this forked process, or in a fresh one."""
    path = str(FOLDER / f"{name}.py")
    with output.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    if not forked:
        sys.exit(subprocess.run([sys.executable, path, "--tiny"]).returncode)
    sys.argv = [path, "--tiny"]
    runpy.run_path(path, run_name="__main__")


def start(name: str, folder: Path, forked: bool) -> Run:
    """Start a benchmark."""
    output = folder / f"{name}.txt"
    process = multiprocessing.get_context("fork").Process(target=work, args=(name, output, forked))
    process.start()
    return Run(name, process, output, time.monotonic())


def report(run: Run) -> bool:
    """Print what came of a run that has ended. Returns whether it held."""
    run.process.join()
    code, lines = run.process.exitcode, run.output.read_text().splitlines()
    took = f"{time.monotonic() - run.began:.0f} s"
    unseen = [line for line in lines if line.startswith(f"{run.name} unseen: ")]
    if code == 0:
        passed = sum(line.endswith(" PASS") for line in lines)
        print(*unseen or [f"{run.name} ok: {passed} gates, {took}"], sep="\n", flush=True)
    else:
        print(f"{run.name} FAILED (exit code {code}, {took})", *lines[-LAST_LINES:], sep="\n", flush=True)
    return code == 0


def run_all(names: list[str], folder: Path) -> bool:
    """Run them. Returns whether all held."""
    alone = [name for name in names if name not in PRELOADED]
    waiting = [name for name in names if name in PRELOADED]
    running = [start(alone.pop(0), folder, False)] if alone else []  # beside the imports
    fork = bool(waiting) and preload()
    waiting, held = [*waiting, *alone], True
    while waiting or running:
        while waiting and len(running) < SIDE_BY_SIDE:
            name = waiting.pop(0)
            running.append(start(name, folder, fork and name in PRELOADED))
        ended = connection.wait([run.process.sentinel for run in running])
        for run in [run for run in running if run.process.sentinel in ended]:
            running.remove(run)
            held &= report(run)
    return held


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        sys.exit(not run_all(sys.argv[1:], Path(made)))
