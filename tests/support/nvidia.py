"""A machine with NVIDIA GPUs as programs see it: device files, nvidia-smi's output, the driver's version file."""

import os

from em.runtime import machine

CARD = "NVIDIA H100 80GB HBM3"
DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder@U22)\n"


def uuid(number):
    return f"GPU-5d5ba0d6-d33d-2b2c-524d-00000000000{number}"


def slice_id(number):
    return f"MIG-c6d4f1ef-42e4-5de3-91c7-00000000000{number}"


def nvidia(monkeypatch, tmp_path, *, files, cards=0, slices=(), free=81_000, driver="580.65.06", gone=()):
    """Pretend that /dev has nvidia<n> for each n of `files`. `cards`: how many nvidia-smi lists; None: it is not here.

    `slices`: profile of each MIG slice of the first card. `gone`: entries that `nvidia-smi -i` does not find.
    """
    dev = tmp_path / "dev"
    dev.mkdir()
    for name in [f"nvidia{n}" for n in files] + ["nvidiactl", "nvidia-uvm", "nvidia-caps"]:
        (dev / name).touch()
    (tmp_path / "version").write_text(DRIVER.format(driver))
    monkeypatch.setattr(machine, "DEV", dev)
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "version")
    monkeypatch.delenv(machine.VISIBLE, raising=False)
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    if cards is None:
        return
    listed = []
    for number in range(cards):
        listed.append(f"GPU {number}: {CARD} (UUID: {uuid(number)})")
        for i, profile in enumerate(slices if number == 0 else ()):
            listed.append(f"  MIG {profile:15} Device {i:2}: (UUID: {slice_id(i)})")
    asked = [f"{uuid(number)}, {CARD}, 81559, {free}" for number in range(cards)]
    apps = [f"{uuid(0)}, 4242, python, {81_559 - free}"]
    lost = "Unable to determine the device handle for GPU: GPU is lost."
    cases = {f'"-i {name}"': f'echo "{lost}"; exit 15' for name in gone}
    cases |= {"-i*": f'echo "{uuid(0)}"'}
    for option, lines in (("-L*", listed), ("--query-gpu*", asked), ("--query-compute*", apps)):
        text = "\n".join(lines)
        cases[option] = f"cat <<'END'\n{text}\nEND"
    script = programs / "nvidia-smi"
    body = "".join(f"{pattern}) {command}\n;;\n" for pattern, command in cases.items())
    script.write_text(f'#!/bin/sh\ncase "$1 $2" in\n{body}*) exit 2;;\nesac\n')
    script.chmod(0o755)
