"""Starts the train stage: one process, or several through Accelerate. Imports nothing heavy.

`command` is what the scheduler runs. For several processes that is this module: it starts `accelerate launch` (on each
machine where there are several), passes on the first process's events, asks all to stop when it is asked to, and goes
on with the jobs left when one has failed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import yaml

from em.config import TrainConfig
from em.errors import ConfigError
from em.runtime import preempt
from em.runtime.events import FD_VARIABLE, FIFO_VARIABLE, Emitter
from em.runtime.machine import has_gpu
from em.runtime.process import die_with_parent
from em.store import job_file
from em.training.job import TrainJob


def command(batch: Path, jobs: Sequence[TrainJob]) -> list[str]:
    """The command line of a train batch; `jobs` share one base model and one way of running."""
    if jobs[0].at_openai:
        return [sys.executable, "-m", "em.sweep.worker", "finetune", str(batch)]
    several = jobs[0].train.num_processes > 1
    return [sys.executable, "-m", *(["em.training.launch"] if several else ["em.sweep.worker", "train"]), str(batch)]


def refuse(runs: Sequence[TrainConfig]) -> None:
    """Raise ConfigError for what can be known to fail on this machine before anything starts."""
    for train in runs:
        path = train.accelerate_config
        if path and not Path(path).is_file():
            raise ConfigError(f"train.accelerate_config={path} is not a file: launch/accelerate/ has some, null is DDP")
        machines = _machines(train)
        if machines > 1 and int(os.environ.get("SLURM_JOB_NUM_NODES", 1)) < machines:
            raise ConfigError(
                f"train.accelerate_config={path} is for {machines} machines, and this is no SLURM job with as many: "
                f"give the launcher {machines} nodes, or change num_machines in the file"
            )


def accelerate(batch: Path, train: TrainConfig) -> list[str]:
    """The command that starts all processes of a run.

    Several machines are one step of a SLURM allocation: `srun` starts `accelerate launch` on each (`_on_this_node`).
    """
    machines = _machines(train)
    if machines > 1:
        # --overlap: the process that leads the job is a step of its own, in the same allocation
        srun = ["srun", "--overlap", f"--nodes={machines}", f"--ntasks={machines}", "--ntasks-per-node=1"]
        if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):  # which srun does not read by itself since 22.05
            srun.append(f"--cpus-per-task={cpus}")
        return [*srun, sys.executable, "-m", "em.training.launch", "--node", str(batch)]
    return _launcher(batch, train, "--main_process_port", "0")


def _launcher(batch: Path, train: TrainConfig, *where: str) -> list[str]:
    how = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no"]  # bf16 is the trainer's own to set
    if train.accelerate_config:
        how = ["--config_file", train.accelerate_config]
    count = ["--num_processes", str(train.num_processes)]
    worker = ["-m", "em.sweep.worker", "train", str(batch)]
    return [sys.executable, "-m", "accelerate.commands.launch", *how, *count, *where, *worker]


def _on_this_node(batch: Path) -> list[str]:
    """`accelerate launch` of one machine of a SLURM step; the step's first machine is where the processes meet."""
    _, jobs = job_file.read(batch, TrainJob)
    first = _scontrol("hostnames", os.environ["SLURM_JOB_NODELIST"]).split()[0]
    address = _scontrol("node", "--oneliner", first).partition("NodeAddr=")[2].split()[0]  # as SLURM itself reaches it
    port = 20_000 + int(os.environ["SLURM_JOB_ID"]) % 10_000  # the same on every machine, apart from other jobs'
    here = ["--machine_rank", os.environ["SLURM_NODEID"], "--main_process_ip", address]
    return _launcher(batch, jobs[0].train, *here, "--main_process_port", str(port))


def _scontrol(*what: str) -> str:
    return subprocess.run(["scontrol", "show", *what], capture_output=True, text=True, check=True).stdout


def processes_here(train: TrainConfig) -> int:
    """Processes of a run on one machine: as many GPUs as it needs there."""
    return -(-train.num_processes // _machines(train))


def _machines(train: TrainConfig) -> int:
    if not train.accelerate_config:
        return 1
    return int(yaml.safe_load(Path(train.accelerate_config).read_text(encoding="utf-8")).get("num_machines", 1))


def main() -> None:
    die_with_parent()
    path = Path(sys.argv[-1])
    if sys.argv[1] == "--node":
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # the processes take it, not Accelerate; see _child
        os.execv(sys.executable, _on_this_node(path))
    sys.exit(supervise(path, Emitter.from_environment()))


def supervise(path: Path, emit: Emitter) -> int:
    """Run the jobs of a batch in several processes. A job that ends them is told as failed, the rest goes on.

    Returns the exit code: 0, or preempt.PREEMPTED when asked to stop before all were done.
    """
    out, jobs = job_file.read(path, TrainJob)
    left = {job.key: job for job in jobs}
    with tempfile.TemporaryDirectory(prefix="em-train-") as name:
        folder = Path(name)
        os.environ[preempt.STOP_FILE_VARIABLE] = str(folder / "stop")
        preempt.flag_on_stop(pass_on=folder / "stop")
        while left:
            before = len(left)
            job_file.write(path, out, list(left.values()))  # other machines see this folder
            code = _launch(path, left, folder, emit)
            if left and preempt.stop_requested():
                return preempt.PREEMPTED
            if len(left) == before or (left and code == 0):  # none of the processes could say why
                key = next(iter(left))
                emit.failed(key, f"its training processes ended with exit code {code} before it was done; see the log")
                del left[key]
    return 0


def _launch(path: Path, left: dict[str, TrainJob], folder: Path, emit: Emitter) -> int:
    """Start the processes over the jobs left and wait for them; jobs that are done or failed leave `left`."""
    fifo = folder / "events"
    fifo.unlink(missing_ok=True)
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    holding = os.open(fifo, os.O_WRONLY)  # or the reader would see an end before the first process has opened it
    os.set_blocking(reading, True)
    relay = threading.Thread(target=_relay, args=(reading, left, emit))
    relay.start()
    train = next(iter(left.values())).train
    try:
        return subprocess.Popen(
            accelerate(path, train),
            stdin=subprocess.DEVNULL,
            env=_environment(fifo, train.num_processes),
            preexec_fn=_child,
        ).wait()
    finally:
        os.close(holding)
        relay.join()


def _relay(reading: int, left: dict[str, TrainJob], emit: Emitter) -> None:
    with os.fdopen(reading, encoding="utf-8") as lines:
        for line in lines:
            event = json.loads(line)
            if event["event"] in ("done", "failed"):
                left.pop(event["job"], None)
            emit.write(line)


def _environment(fifo: Path, processes: int) -> dict[str, str]:
    env = {**os.environ, FIFO_VARIABLE: str(fifo)}
    env.pop(FD_VARIABLE, None)
    if not has_gpu():
        env["ACCELERATE_USE_CPU"] = "true"
        env["OMP_NUM_THREADS"] = str(max(1, int(env.get("OMP_NUM_THREADS", os.cpu_count() or 1)) // processes))
    return env


def _child() -> None:
    """Before the launcher's own code: it dies with us, and SIGUSR2, which a scheduler sends to all, is not for it."""
    die_with_parent()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


if __name__ == "__main__":
    main()
