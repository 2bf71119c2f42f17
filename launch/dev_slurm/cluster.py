"""Start a real SLURM on one machine, for tests and trials: `cluster.py up DIR`, `. DIR/env`, `cluster.py down DIR`.

Two nodes with two pretend GPUs each; two partitions, and jobs of `high` preempt jobs of `main`. Needs slurm-wlm and
munge; `up` installs them if it runs as root and finds apt-get.
"""
# Daemons listen on loopback, on free ports, with a munged and a key of their own. All files are in DIR, and `down`
# stops what `up` started, by process id. Without an accounting database, `sacct` lists nothing; `squeue --states=all`
# keeps ended jobs.

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged")
INSTALL = (
    ["apt-get", "update", "-qq"],
    ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "slurm-wlm", "munge"],
)
GPUS = 2
WAIT_S = 30

# Times are short, so that tests do not wait: a requeued job waits for cred_expire + 1 seconds (120 by default).
CONF = """\
ClusterName=em
SlurmctldHost={host}(127.0.0.1)
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={control}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.own.pid
SlurmdPidFile={folder}/slurmd.%n.own.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=10000,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MinJobAge=86400
KillWait=3
InactiveLimit=0
Waittime=0
ReturnToService=2
JobRequeue=1
MaxArraySize=1001
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=3
PartitionName=high Nodes=ALL Default=NO MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class ClusterError(RuntimeError):
    pass


def install() -> None:
    """Install SLURM's programs if they are missing. Raises ClusterError if that is not possible."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ClusterError(f"{', '.join(missing)} not found: install slurm-wlm and munge (as root, by apt-get)")
    for command in INSTALL:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")


def up(folder: Path, nodes: int = 2) -> dict[str, str]:
    """Start a cluster in `folder`. Return the environment variables that its users need."""
    install()
    folder = folder.resolve()
    for name in ("state", "spool", "log", "dev", "run"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    names = [f"em{i + 1}" for i in range(nodes)]
    _write_config(folder, names)
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    (folder / "env").write_text(f"export SLURM_CONF={environment['SLURM_CONF']}\n")
    # --force: else munged refuses a DIR below a folder that other users cannot enter
    munged = ["munged", "--foreground", "--force", "--num-threads=2"]
    files = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munge.own.pid", "seed-file": "munge.seed"}
    munged += [f"--{option}={folder / name}" for option, name in {**files, "log-file": "log/munged.log"}.items()]
    _start(folder, "munged", munged, environment)
    _wait(lambda: (folder / "munge.sock").exists(), folder, "munged makes no socket")
    _start(folder, "slurmctld", ["slurmctld", "-D"], environment)
    for name in names:
        _start(folder, f"slurmd.{name}", ["slurmd", "-D", "-N", name], environment)
    _wait(lambda: _idle(environment) == nodes, folder, "the nodes do not come up")
    return environment


def down(folder: Path) -> None:
    """Cancel all jobs and stop the daemons that `up` started."""
    folder = folder.resolve()
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run(
        ["scancel", "--full", "--user", getpass.getuser()], env=environment, capture_output=True, check=False
    )
    until = time.monotonic() + 10
    while time.monotonic() < until and _output(["squeue", "--noheader"], environment):
        time.sleep(0.1)
    for file in sorted((folder / "run").glob("*.pid"), reverse=True):  # slurmd, slurmctld, munged
        pid = int(file.read_text())
        _stop(pid)
        file.unlink()


def _write_config(folder: Path, names: list[str]) -> None:
    ports = _free_ports(1 + len(names))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 512
    cores = max(2, os.cpu_count() or 2)
    node = "NodeName={} NodeHostname={} NodeAddr=127.0.0.1 Port={} CPUs={} RealMemory={} Gres=gpu:{} State=UNKNOWN"
    host = socket.gethostname().split(".")[0]
    rows = [node.format(n, host, p, cores, memory, GPUS) for n, p in zip(names, ports[1:], strict=True)]
    text = CONF.format(host=host, control=ports[0], user=getpass.getuser(), folder=folder, nodes="\n".join(rows))
    (folder / "slurm.conf").write_text(text)
    for i, device in enumerate(("/dev/null", "/dev/zero")):  # SLURM accepts only character devices as GPUs
        link = folder / "dev" / f"nvidia{i}"
        link.unlink(missing_ok=True)
        link.symlink_to(device)
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/dev/nvidia[0-{GPUS - 1}] Flags=nvidia_gpu_env\n")
    key = folder / "munge.key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def _start(folder: Path, name: str, command: list[str], environment: dict[str, str]) -> None:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    with (folder / "log" / f"{name}.out").open("a") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment, "PATH": path},
            start_new_session=True,
        )
    (folder / "run" / f"{name}.pid").write_text(str(process.pid))


def _stop(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
        for tick in range(100):
            if _ended(pid):
                return
            if tick == 80:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
    except ProcessLookupError:
        return


def _ended(pid: int) -> bool:
    """Return whether a process is gone or a zombie. Reap it if this process started it."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
    except ChildProcessError:
        pass
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _idle(environment: dict[str, str]) -> int:
    states = _output(["sinfo", "--noheader", "--Node", "--partition=main", "--format=%T"], environment).split()
    return states.count("idle")


def _output(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    return done.stdout


def _wait(ready: object, folder: Path, problem: str) -> None:
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        if ready():  # type: ignore[operator]
            return
        time.sleep(0.1)
    logs = "\n".join(f"{p.name}: {p.read_text()[-800:]}" for p in sorted((folder / "log").iterdir()))
    down(folder)
    raise ClusterError(f"{problem} within {WAIT_S} s\n{logs}")


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in ("up", "down"):
        sys.exit("usage: cluster.py up|down DIR")
    try:
        if sys.argv[1] == "down":
            down(Path(sys.argv[2]))
        else:
            up(Path(sys.argv[2]))
            sys.stdout.write(f". {Path(sys.argv[2]).resolve() / 'env'}\n")
    except ClusterError as error:
        sys.exit(f"dev_slurm: {error}")


if __name__ == "__main__":
    main()
