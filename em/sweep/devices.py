"""Which devices a sweep may use, how many a worker holds, and the environment that shows it just those."""

from __future__ import annotations

import os
from typing import Any

from em.errors import ConfigError
from em.judging.job import JudgeJob
from em.planning.plan import Job, on_device
from em.runtime import machine
from em.runtime.cuda import GIVEN_VARIABLE
from em.runtime.events import FD_VARIABLE
from em.runtime.process import SWEEP_VARIABLE
from em.sampling.job import SampleJob
from em.training import launch
from em.training.job import TrainJob

CPU = "cpu:"
"""Beginning of the names of devices that are no GPU: workers side by side on the CPU."""


def devices(setting: Any) -> list[str]:
    """Return the device ids of launch.devices, as CUDA_VISIBLE_DEVICES names GPUs.

    auto: every visible GPU. A number: the first so many of them. Without a GPU: one worker on the CPU, or so many.
    Raises ConfigError for GPUs that are not there.
    """
    found = [gpu.id for gpu in machine.visible()]
    if not found:
        if isinstance(setting, list):
            raise ConfigError(
                f"launch.devices={setting} names GPUs and none is visible here (no /dev/nvidia0 to 9, or "
                f"{machine.VISIBLE} hides them): set launch.devices=auto, or a number of workers on the CPU"
            )
        return [f"{CPU}{number}" for number in range(setting if isinstance(setting, int) else 1)]
    if isinstance(setting, list):
        return [str(name) for name in setting]
    if isinstance(setting, int) and setting > len(found):
        raise ConfigError(
            f"launch.devices={setting} and {len(found)} GPU(s) are visible here ({', '.join(found)}): set "
            f"launch.devices=auto, or ask for more GPUs"
        )
    return found[:setting] if isinstance(setting, int) else found


def on_cpu(ids: list[str]) -> bool:
    """Whether these devices are no GPUs."""
    return all(name.startswith(CPU) for name in ids)


def devices_held(job: Job[object], ids: list[str]) -> int:
    """Return the number of devices of one worker. Raises ConfigError if the machine has fewer."""
    spec = job.spec
    if not on_device(job):
        return 0
    option, wanted = "train.num_processes", 1
    if isinstance(spec, TrainJob):
        wanted = launch.processes_here(spec.train)
    elif isinstance(spec, SampleJob | JudgeJob):
        engine_args = spec.sample.engine_args if isinstance(spec, SampleJob) else spec.judge.engine_args
        option = f"{job.stage}.engine_args.tensor_parallel_size"
        wanted = int(engine_args.get("tensor_parallel_size", 1))
    if wanted > len(ids) and not on_cpu(ids):  # processes on CPU cores need no device each
        raise ConfigError(
            f"{option}={wanted} but launch.devices has {len(ids)} ({', '.join(ids)}): give more, or lower it"
        )
    return min(wanted, len(ids))


def environment(events: int, held: list[str], share: float, stage: str) -> dict[str, str]:
    """Return the environment of a worker. Variables that are already set win, except for the devices.

    `share`: its part of the machine's devices, and so of the processor's cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    defaults = {
        "OMP_NUM_THREADS": str(max(1, int(cores * share))),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # nvidia-smi's; CUDA's own puts the fastest card first
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if stage == "train":  # each micro-batch has another length, and fixed blocks would leave gaps between them
        defaults["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    own = {FD_VARIABLE: str(events), SWEEP_VARIABLE: str(os.getpid())}
    if held and not on_cpu(held):
        own |= {machine.VISIBLE: ",".join(held), GIVEN_VARIABLE: ",".join(held)}
    return {**defaults, **os.environ, **own}
