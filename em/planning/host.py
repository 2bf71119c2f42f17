"""What a GPU build needs beside the GPU: driver, C library, compiler, headers, shared and main memory."""

from __future__ import annotations

import os
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from em.config import ExperimentConfig
from em.config.train import Method
from em.errors import ConfigError
from em.models import memory
from em.runtime import machine

DRIVER = 580
"""Oldest NVIDIA driver for CUDA 13, for which the locked torch is built."""
GLIBC = (2, 31)
"""The locked llguidance, which vLLM needs, has wheels for this C library and later."""
SHARED = 1_000_000_000
"""Bytes of /dev/shm that several processes need for NCCL. Docker gives 64 MB unless asked (--shm-size=8g)."""
PER_PROCESS = 4_000_000_000
"""Bytes of main memory of a process with CUDA, torch and a tokenised dataset."""


@dataclass(frozen=True)
class Host:
    """What was found here."""

    driver: str
    """"none" without one."""
    glibc: str
    """"" for another C library."""
    compiler: str | None
    headers: bool
    """Whether Python.h is there: Triton compiles against it at its first kernel."""
    shared: int
    """Bytes of /dev/shm."""
    free: int
    """Bytes of main memory."""


def look() -> Host:
    """Return the facts of this machine."""
    shm = Path("/dev/shm")
    compiler = os.environ.get("CC") or next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    return Host(
        driver=machine.driver_version(),
        glibc=(os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc "),
        compiler=compiler,
        headers=Path(sysconfig.get_paths()["include"], "Python.h").is_file(),
        shared=shutil.disk_usage(shm).total if shm.is_dir() else 0,
        free=free_memory(),
    )


def free_memory() -> int:
    """Return MemAvailable in bytes."""
    info = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(info["MemAvailable"].split()[0]) * 1024


def check(config: ExperimentConfig, host: Host) -> str:
    """Check what a run on this machine's GPUs needs. Raises ConfigError with every fault and its remedy."""
    faults = [*_software(host), *_memory(config, host)]
    if faults:
        raise ConfigError("; ".join(faults))
    return f"driver {host.driver}, glibc {host.glibc}, {host.compiler}, Python.h, /dev/shm {host.shared / 1e9:.1f} GB"


def _software(host: Host) -> list[str]:
    faults = []
    major = host.driver.split(".")[0]
    if not major.isdigit() or int(major) < DRIVER:
        faults.append(
            f"NVIDIA driver {host.driver}: torch's CUDA 13 needs {DRIVER} or later, and sees no GPU with less"
        )
    parts = host.glibc.split(".")
    if not all(part.isdigit() for part in parts) or tuple(map(int, parts)) < GLIBC:
        wanted = ".".join(map(str, GLIBC))
        faults.append(f"C library {host.glibc or 'other than glibc'}: the lock files need glibc {wanted} or later")
    if host.compiler is None:
        faults.append("no C compiler (cc, gcc, clang or CC=): Triton compiles at its first kernel")
    if not host.headers:
        faults.append("no Python.h: Triton compiles against it; install Python's headers (python3-dev)")
    return faults


def _memory(config: ExperimentConfig, host: Host) -> list[str]:
    """Return faults of shared and main memory. Only ranks of FSDP load weights into main memory, the first one all."""
    train, faults = config.train, []
    several = max(train.num_processes, int(config.sample.engine_args.get("tensor_parallel_size", 1)))
    if several > 1 and host.shared < SHARED:
        faults.append(
            f"/dev/shm has {host.shared / 1e6:.0f} MB and {several} processes need {SHARED / 1e9:g} GB for NCCL: start "
            f"the container with --shm-size=8g or --ipc=host"
        )
    shape = memory.shape_of(config.model)
    weights = memory.weight_bytes(config.model, shape) if shape and train.accelerate_config else 0
    weights = 4 * memory.parameters(shape) if shape and weights and train.method == Method.full else weights
    needed = weights + train.num_processes * PER_PROCESS
    if train.num_processes > 1 and host.free < needed:
        faults.append(
            f"{host.free / 1e9:.0f} GB of main memory are free, train.num_processes={train.num_processes} needs about "
            f"{needed / 1e9:.0f} GB while loading: ask for more (mem_gb), or lower train.num_processes"
        )
    return faults
