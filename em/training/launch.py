"""Start the train stage in one process, or in several through Accelerate. Imports no heavy library.

The scheduler runs `command`. For several processes that is this module: it starts `accelerate launch` on each machine,
relays the events of the first process and stop requests, and continues with the other jobs after one has failed.
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
from typing import Any

import yaml

from em.config import TrainConfig
from em.config.train import Method
from em.errors import ConfigError
from em.runtime import preempt
from em.runtime.events import FD_VARIABLE, FIFO_VARIABLE, Emitter
from em.runtime.machine import has_gpu
from em.runtime.process import die_with_parent
from em.store import job_file
from em.training.job import TrainJob


def command(batch: Path, jobs: Sequence[TrainJob]) -> list[str]:
    """Return the command line of a train batch. Its jobs share the base model and the number of processes."""
    if jobs[0].at_openai:
        return [sys.executable, "-m", "em.sweep.worker", "finetune", str(batch)]
    several = jobs[0].train.num_processes > 1
    return [sys.executable, "-m", *(["em.training.launch"] if several else ["em.sweep.worker", "train"]), str(batch)]


def refuse(runs: Sequence[TrainConfig]) -> None:
    """Raise ConfigError if this machine cannot run them: a missing or unfit Accelerate config, or too few nodes."""
    for train in runs:
        path = train.accelerate_config
        if path and not Path(path).is_file():
            raise ConfigError(f"train.accelerate_config={path} is not a file: launch/accelerate/ has some, null is DDP")
        _refuse_sharding(train)
        machines = _machines(train)
        if train.num_processes % machines:
            raise ConfigError(
                f"train.num_processes={train.num_processes} is not a multiple of the {machines} machines of "
                f"train.accelerate_config={path}: each machine gets the same number"
            )
        if machines > 1 and int(os.environ.get("SLURM_JOB_NUM_NODES", 1)) < machines:
            raise ConfigError(
                f"train.accelerate_config={path} is for {machines} machines, but this SLURM job has fewer "
                f"nodes, or there is none: give the launcher {machines} nodes, or change num_machines in the file"
            )


def _refuse_sharding(train: TrainConfig) -> None:
    """Raise ConfigError if the run would shard a model that cannot be sharded, or in a way that was never tested."""
    if not sharded(train):
        return
    if train.method == Method.qlora:
        raise ConfigError(
            "train.method=qlora with FSDP would hold the whole 4-bit base on each GPU: leave out "
            "train.accelerate_config (data-parallel), or use train.method=lora"
        )
    version = _profile(train).get("fsdp_config", {}).get("fsdp_version")
    if version != 2:
        raise ConfigError(
            f"{train.accelerate_config} has fsdp_version {version}: em shards with fsdp_version 2, see "
            "launch/accelerate/fsdp.yaml"
        )


def accelerate(batch: Path, train: TrainConfig) -> list[str]:
    """Return the command that starts all processes of a run.

    On several machines, `srun` starts `accelerate launch` on each as one step of the SLURM allocation.
    """
    machines = _machines(train)
    if machines > 1:
        # --overlap: the process that leads the job is another step of the same allocation
        srun = ["srun", "--overlap", f"--nodes={machines}", f"--ntasks={machines}", "--ntasks-per-node=1"]
        if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):  # since 22.05 srun does not read it by itself
            srun.append(f"--cpus-per-task={cpus}")
        return [*srun, sys.executable, "-m", "em.training.launch", "--node", str(batch)]
    return _launcher(batch, train, "--main_process_port", "0")


def _launcher(batch: Path, train: TrainConfig, *where: str) -> list[str]:
    how = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no"]  # the trainer sets bf16
    if train.accelerate_config:
        how = ["--config_file", train.accelerate_config]
        if "parallelism_config" in _profile(train):  # sharded within a machine, copied to the next
            sizes = {"replicate": _machines(train), "shard": processes_here(train)}
            how += [w for name, n in sizes.items() for w in (f"--parallelism_config_dp_{name}_size", str(n))]
    count = ["--num_processes", str(train.num_processes)]
    worker = ["-m", "em.sweep.worker", "train", str(batch)]
    return [sys.executable, "-m", "accelerate.commands.launch", *how, *count, *where, *worker]


def _on_this_node(batch: Path) -> list[str]:
    """Return the `accelerate launch` command of one machine of a SLURM step; the first machine is the rendezvous."""
    _, jobs = job_file.read(batch, TrainJob)
    first = _scontrol("hostnames", os.environ["SLURM_JOB_NODELIST"]).split()[0]
    address = _scontrol("node", "--oneliner", first).partition("NodeAddr=")[2].split()[0]  # the address that SLURM uses
    port = 20_000 + int(os.environ["SLURM_JOB_ID"]) % 10_000  # the same on every machine, other than other jobs'
    here = ["--machine_rank", os.environ["SLURM_NODEID"], "--main_process_ip", address]
    return _launcher(batch, jobs[0].train, *here, "--main_process_port", str(port))


def _scontrol(*what: str) -> str:
    return subprocess.run(["scontrol", "show", *what], capture_output=True, text=True, check=True).stdout


def processes_here(train: TrainConfig) -> int:
    """Return the processes of a run per machine, which is also the GPUs it needs there."""
    return -(-train.num_processes // _machines(train))


def _machines(train: TrainConfig) -> int:
    return int(_profile(train).get("num_machines", 1))


def sharded(train: TrainConfig) -> bool:
    """Return whether a run shards its weights over its processes (FSDP)."""
    return _profile(train).get("distributed_type") == "FSDP"


def _profile(train: TrainConfig) -> dict[str, Any]:
    """Return the contents of Accelerate's config file; empty without one."""
    if not train.accelerate_config:
        return {}
    found: dict[str, Any] = yaml.safe_load(Path(train.accelerate_config).read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Run a batch as supervisor; with --node, become the launcher of one machine."""
    die_with_parent()
    path = Path(sys.argv[-1])
    if sys.argv[1] == "--node":
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # the training processes handle it, not Accelerate; see _child
        os.execv(sys.executable, _on_this_node(path))
    sys.exit(supervise(path, Emitter.from_environment()))


def supervise(path: Path, emit: Emitter) -> int:
    """Run the jobs of a batch in several processes. Report a job that ends them as failed, and run the others.

    Return the exit code: 0, or preempt.PREEMPTED after a stop request before all jobs were done.
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
            if len(left) == before or (left and code == 0):  # no process has reported the cause
                key = next(iter(left))
                emit.failed(key, f"its training processes ended with exit code {code} before it was done; see the log")
                del left[key]
    return 0


def _launch(path: Path, left: dict[str, TrainJob], folder: Path, emit: Emitter) -> int:
    """Run the jobs in `left` and wait for the processes. Remove jobs from `left` that are done or failed."""
    fifo = folder / "events"
    fifo.unlink(missing_ok=True)
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    holding = os.open(fifo, os.O_WRONLY)  # otherwise the reader sees the end of file before the first process opens it
    os.set_blocking(reading, True)
    relay = threading.Thread(target=_relay, args=(reading, left, emit))
    relay.start()
    train = next(iter(left.values())).train
    try:
        return subprocess.Popen(
            accelerate(path, train),
            stdin=subprocess.DEVNULL,
            env=_environment(fifo, processes_here(train)),
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
    env["OMP_NUM_THREADS"] = str(max(1, int(env.get("OMP_NUM_THREADS", os.cpu_count() or 1)) // processes))
    if not has_gpu():
        env["ACCELERATE_USE_CPU"] = "true"
    return env


def _child() -> None:
    """Make the launcher die with us and ignore SIGUSR2, which a scheduler sends to every process."""
    die_with_parent()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


if __name__ == "__main__":
    main()
