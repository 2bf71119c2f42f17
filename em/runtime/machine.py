"""The GPUs that a process here can compute on, numbered as CUDA numbers them. Found without torch.

CUDA counts the GPUs that it may open from 0, whatever their device files are called: a container that was given the
host's GPU 3 has /dev/nvidia3 only, and CUDA calls it 0. A slice of a GPU (MIG) has no number, only a UUID.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

DEV = Path("/dev")
DRIVER = Path("/proc/driver/nvidia/version")
VISIBLE = "CUDA_VISIBLE_DEVICES"
NAMED = re.compile(r"\d+|(GPU|MIG)-\S+")
SLICE = re.compile(r"^\s+MIG\s+(?P<profile>\S+)\s.*UUID:\s*(?P<id>MIG-[^)\s]+)")
CARD = re.compile(r"^GPU \d+:.*UUID:\s*(?P<id>GPU-[^)\s]+)")
TIMEOUT_S = 30
NOT_SEEN = "torch does not see"
"""In the message of a worker that was given a GPU and cannot use it."""
LOST = (
    "GPU is lost",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "no CUDA-capable device is detected",
    "CUDA-capable device(s) is/are busy or unavailable",
    NOT_SEEN,
)
"""CUDA's messages (cudaGetErrorString) about a device that no process can use any more, and ours (runtime/cuda.py)."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG slice of a GPU."""

    id: str
    """Its name in CUDA_VISIBLE_DEVICES: a number, GPU-… or MIG-…."""
    name: str = "NVIDIA GPU"
    memory: int | None = None
    """Bytes; None: nvidia-smi is not here."""
    free: int | None = None
    """Bytes that no process holds now; None: unknown, also of a slice."""
    uuid: str = ""


def has_gpu() -> bool:
    """Whether an NVIDIA driver shows a GPU here that CUDA_VISIBLE_DEVICES does not hide."""
    return bool(_files()) and _named() != []


def device() -> str:
    """Return "gpu" or "cpu": the device that run times measured on this machine belong to."""
    return "gpu" if has_gpu() else "cpu"


def gpus() -> list[tuple[str, int]]:
    """Return (name, memory in bytes) of each visible GPU. Empty without nvidia-smi, although `has_gpu` may be true."""
    return [(gpu.name, gpu.memory) for gpu in visible() if gpu.memory is not None]


def visible() -> list[Gpu]:
    """Return the GPUs that CUDA would show to a process of this environment, in CUDA's order."""
    files, named, known = _files(), _named(), _cards()
    if not files:
        return []
    known = known or [Gpu(str(number)) for number in range(len(files))]
    if named is None:
        return known
    return [gpu for gpu in takewhile(lambda gpu: gpu is not None, (_find(name, known) for name in named)) if gpu]


def is_lost(name: str, error: str) -> bool:
    """Whether the GPU `name` (as in CUDA_VISIBLE_DEVICES) is gone, by CUDA's message or by asking nvidia-smi."""
    if any(text in error for text in LOST):
        return True
    if name.startswith("MIG-"):  # nvidia-smi answers for the whole card only
        return False
    try:
        done = _smi("-i", name, "--query-gpu=uuid", "--format=csv,noheader")
    except subprocess.TimeoutExpired:  # as it does for a GPU that fell off the bus
        return True
    return done is not None and (done.returncode != 0 or not done.stdout.startswith("GPU-"))


def holders(gpu: Gpu) -> list[tuple[str, str, int]]:
    """Return (process id, program, bytes) of what holds memory of a GPU, as far as this container shows it."""
    done = _smi("--query-compute-apps=gpu_uuid,pid,process_name,used_memory", "--format=csv,noheader,nounits")
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()] if done else []
    return [(row[1], row[2], int(row[3]) << 20) for row in rows if row[0] == gpu.uuid and row[3].isdigit()]


def driver_version() -> str:
    """Return the version of the loaded NVIDIA driver, e.g. 580.65.06; "none" without one."""
    text = DRIVER.read_text(encoding="utf-8") if DRIVER.exists() else ""
    found = re.search(r"Module\D*(?:x86_64|aarch64)?\s+(\d+\.[\d.]+)", text)
    return found[1] if found else "none"


def _files() -> list[Path]:
    return [path for path in DEV.glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()]


def _named() -> list[str] | None:
    """Return what CUDA_VISIBLE_DEVICES names; None if it is not set. CUDA reads it up to the first entry that names no
    device, e.g. -1 or SLURM's NoDevFiles."""
    text = os.environ.get(VISIBLE)
    return None if text is None else list(takewhile(NAMED.fullmatch, (name.strip() for name in text.split(","))))


def _find(name: str, known: list[Gpu]) -> Gpu | None:
    """Return the GPU of an entry of CUDA_VISIBLE_DEVICES, by number or by the beginning of its UUID, else None."""
    if name.isdigit():
        return replace(known[int(name)], id=name) if int(name) < len(known) else None
    if not any(gpu.uuid for gpu in known):  # without nvidia-smi nobody can say
        return Gpu(name)
    return next((replace(gpu, id=name) for gpu in known if gpu.uuid.startswith(name)), None)


def _cards() -> list[Gpu]:
    """Return every GPU, or its slices where it is cut, as nvidia-smi lists them; empty without nvidia-smi."""
    query = "--query-gpu=uuid,name,memory.total,memory.free"
    try:
        listed, asked = _smi("-L"), _smi(query, "--format=csv,noheader,nounits")
    except subprocess.TimeoutExpired:
        return []
    rows = [[part.strip() for part in line.split(",")] for line in asked.stdout.splitlines()] if asked else []
    whole = {
        row[0]: Gpu("", row[1], int(row[2]) << 20, int(row[3]) << 20 if row[3].isdigit() else None, row[0])
        for row in rows
        if len(row) == 4 and row[2].isdigit()
    }
    slices: dict[str, list[Gpu]] = {}
    card = ""
    for line in listed.stdout.splitlines() if listed else []:
        if found := CARD.match(line):
            card = found["id"]
        elif found := SLICE.match(line):
            name = f"{whole[card].name if card in whole else 'NVIDIA GPU'} MIG {found['profile']}"
            slices.setdefault(card, []).append(
                Gpu(found["id"], name, _slice_bytes(found["profile"]), None, found["id"])
            )
    if slices:  # CUDA's numbers do not reach past the first slice
        return [g for uuid, gpu in whole.items() for g in slices.get(uuid, [replace(gpu, id=uuid)])]
    return [replace(gpu, id=str(number)) for number, gpu in enumerate(whole.values())]


def _slice_bytes(profile: str) -> int | None:
    """Return the memory of a MIG profile such as 3g.20gb, to about 5 %: nvidia-smi tells only the whole card's."""
    found = re.search(r"\.(\d+)gb", profile)
    return int(found[1]) * 10**9 if found else None


def _smi(*arguments: str) -> subprocess.CompletedProcess[str] | None:
    """Run nvidia-smi; None where it is not installed, as in containers without the driver's utilities."""
    try:
        return subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except FileNotFoundError:
        return None
