"""Whether a worker that was given GPUs can compute on them. Imports torch when it is asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from em.runtime.machine import NOT_SEEN, VISIBLE, driver_version, has_gpu, visible

GIVEN_VARIABLE = "EM_DEVICES"
"""The GPUs that the scheduler gave to a worker, as in CUDA_VISIBLE_DEVICES; not set for a worker on the CPU."""
GB = 1e9
OLDEST_DRIVER = {12: 525, 13: 580}
"""CUDA release → oldest driver branch (NVIDIA, "CUDA Compatibility", minor-version compatibility)."""


def missing_gpus() -> str:
    """Return an error message if torch does not see every GPU that this worker was given, else "".

    Without this check such a worker would compute on the CPU, hundreds of times slower, in silence.
    """
    given = os.environ.get(GIVEN_VARIABLE)
    if not given:
        return ""
    import torch

    # is_available asks the CUDA runtime, as device_count alone may not: a driver that is too old has devices
    seen, wanted = torch.cuda.device_count() if torch.cuda.is_available() else 0, len(given.split(","))
    if seen >= wanted:
        return ""
    return describe_missing(given, seen, torch.__version__, torch.version.cuda)


def uses_gpu() -> bool:
    """Whether models are computed on a GPU in this process.

    Raises RuntimeError if the machine shows a GPU that torch does not see: a notebook or `em rejudge` is no worker.
    """
    import torch

    if torch.cuda.is_available():
        return True
    if has_gpu():
        given = ",".join(gpu.id for gpu in visible())
        raise RuntimeError(describe_missing(given, 0, torch.__version__, torch.version.cuda))
    return False


def describe_missing(given: str, seen: int, torch_version: str, cuda: str | None) -> str:
    """Return the message about a process that was given the GPUs `given` and sees `seen` of them."""
    driver = driver_version()
    major = driver.split(".")[0]
    oldest = OLDEST_DRIVER.get(int(cuda.split(".")[0]), 0) if cuda else 0
    if cuda is None:
        remedy = "this torch is a build for the CPU: run EM_BUILD=cuda make install"
    elif major.isdigit() and int(major) < oldest:
        remedy = f"CUDA {cuda} needs a driver of {oldest} or newer: update it, or install a torch for an older CUDA"
    else:
        remedy = "see nvidia-smi -L, and set launch.devices or CUDA_VISIBLE_DEVICES to what it lists"
    what = "all of them" if seen else "it"
    return (
        f"this process was given GPU {given} and {NOT_SEEN} {what}: driver {driver}, torch {torch_version} for CUDA "
        f"{cuda or 'none'}, {VISIBLE}={os.environ.get(VISIBLE, 'not set')}. Nothing was computed on the CPU instead "
        f"({VISIBLE}= asks for that); {remedy}"
    )


@contextmanager
def named_memory(remedy: str) -> Iterator[None]:
    """Turn torch's out-of-memory error into a RuntimeError that says who holds the memory and what to change."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        free, total = torch.cuda.mem_get_info()
        raise RuntimeError(describe_full(str(error), free, total, torch.cuda.memory_reserved(), remedy)) from error


def describe_full(error: str, free: int, total: int, ours: int, remedy: str) -> str:
    """Return the message about a GPU without room. `free`, `total`, `ours` (held by this process): bytes."""
    tried = next((part for part in error.split(". ") if part.startswith("Tried to allocate")), "an allocation failed")
    others = max(0, total - free - ours)
    return (
        f"GPU {os.environ.get(VISIBLE, '0')} is full: {tried}, {free / GB:.1f} of {total / GB:.1f} GB are free, this "
        f"process holds {ours / GB:.1f} GB, others (and CUDA itself) {others / GB:.1f} GB. {remedy}, or choose another "
        f"GPU (launch.devices)"
    )
