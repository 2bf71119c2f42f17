"""Check em on this machine's GPU: `make gpu-check`. At most 20 minutes on one card, no network.

Each line is `section.line value goal PASS|FAIL|UNSEEN` and goes to gpu_check.json. Every section is a process of its
own, so a crash fails its own lines only. UNSEEN: this machine lacks the GPU or vLLM, so nobody knows.

    python benchmarks/gpu_check                       # everything
    python benchmarks/gpu_check --section loss speed  # some sections
    python benchmarks/gpu_check --rehearse            # without a GPU: the same code at a tiny size on the CPU
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from lines import BROKEN, FAIL, SECTIONS, Line, Section, read, run_here

from em.planning.doctor import versions
from em.runtime import machine

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run the chosen sections, print and write their lines. Return the exit code: 1 if a line fails."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [section.name for section in SECTIONS]
    options.add_argument("--section", nargs="+", choices=names, default=names)
    options.add_argument("--rehearse", action="store_true", help="without a GPU: run tiny sizes on the CPU")
    options.add_argument("--out", type=Path, default=ROOT / "gpu_check.json")
    options.add_argument("--here", choices=("cuda", "cpu"), help=argparse.SUPPRESS)  # a section's own process
    chosen = options.parse_args()
    sections = [section for section in SECTIONS if section.name in chosen.section]
    if chosen.here:
        run_here(sections[0], chosen.here)
        return 0
    cards = machine.visible()
    print(f"{time.strftime('%Y-%m-%d')}  driver {machine.driver_version()}  {[gpu.name for gpu in cards] or 'no GPU'}")
    lines: list[Line] = []
    for section in sections:
        began = time.monotonic()
        found = check(section, bool(cards), chosen.rehearse)
        lines += found
        print(*found, f"-- {section.name}: {time.monotonic() - began:.0f} s", sep="\n", flush=True)
    head = {"date": time.strftime("%Y-%m-%d"), "driver": machine.driver_version(), "versions": versions()}
    cards_seen = [{"name": gpu.name, "memory": gpu.memory} for gpu in cards]
    body = {**head, "gpus": cards_seen, "lines": [vars(line) for line in lines]}
    chosen.out.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    count = {verdict: sum(line.verdict == verdict for line in lines) for verdict in ("PASS", "FAIL", "UNSEEN")}
    print(", ".join(f"{number} {verdict}" for verdict, number in count.items()), f"→ {chosen.out}")
    return int(count[FAIL] > 0 or any(BROKEN in line.note for line in lines))


def check(section: Section, gpu: bool, rehearse: bool) -> list[Line]:
    """Run one section in a process of its own, if this machine has what it needs. Return its lines."""
    unseen = ""
    if section.gpu and not gpu:
        unseen = "no GPU here"
    elif section.vllm and not vllm_for_cuda():
        unseen = "no vLLM for CUDA here"
    if unseen and not (rehearse and section.rehearses):
        return read(section, "", unseen, "")
    device = "cuda" if gpu else "cpu"
    command = [sys.executable, str(Path(__file__).parent), "--section", section.name, "--here", device]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=section.limit_s, check=False)
        output, failure = (
            done.stdout,
            f"exit code {done.returncode}: {last_line(done.stderr)}" if done.returncode else "",
        )
    except subprocess.TimeoutExpired as error:
        output, failure = (error.stdout or b"").decode(), f"not done within {section.limit_s} s"
    if failure:
        print(output[-3000:], failure, sep="\n")
    return read(section, output, unseen, failure)


def vllm_for_cuda() -> bool:
    """Whether vLLM is installed, and not its CPU build."""
    try:
        return bool(importlib.metadata.version("vllm"))
    except importlib.metadata.PackageNotFoundError:
        return False


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


if __name__ == "__main__":
    sys.exit(main())
