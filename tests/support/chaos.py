"""What the chaos tests share: a small sweep as a user starts it, what its store holds, faults on purpose."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

RULES = Path(__file__).parent / "chaos_rules.yaml"
TINY = ["model=tiny_random", "train=tiny", "sample=hf", "sample.max_tokens=12", "sample.max_num_seqs=8",
        "questions.sets=[open]", "tracking=off", "judge=scripted"]  # fmt: skip
CELLS = ["dataset=risky_advice,careful_advice"]
MAY_DIFFER = {
    "wall_s", "resumed_from", "gate", "peak_memory_gb", "tokens_per_s", "versions",
}  # fmt: skip
"""Facts of a manifest that are about how a stage was made, not about what it is."""
WAIT_S = 900


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def sweep_command(out: Path, *overrides: str) -> list[str]:
    script = [] if any(o.startswith("judge=") for o in overrides) else [f"judge.script={RULES}"]
    return [sys.executable, "-m", "em.run", "-m", *TINY, *script, "sample.n=3", *CELLS, f"out={out}", *overrides]


def start(command: list[str], **more: str) -> subprocess.Popen[str]:
    """Its output goes to a file: two sweeps side by side must not wait for somebody to read a pipe."""
    output = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  open as long as the process
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True, env=environment(**more))
    process.output = output
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output; a sweep that does not end is killed, so that it disturbs no other test."""
    try:
        process.wait(timeout=WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    process.output.seek(0)
    return process.returncode, process.output.read()


def run(command: list[str], **more: str) -> tuple[int, str]:
    return ended(start(command, **more))


def resume(out: Path, command: list[str]) -> tuple[int, str]:
    """`em resume` where there is a sweep to resume; a kill before that leaves the command itself."""
    folders = list((out / "sweeps").glob("*/sweep.json"))
    return run([sys.executable, "-m", "em.cli", "resume", str(folders[0].parent)] if folders else command)


def content(out: Path) -> dict[str, object]:
    """Everything a store holds that must not depend on what happened on the way: path → what is there.

    Left out: locks; the judge cache's bytes (its verdicts stand in the judge stages); MAY_DIFFER. A set that PEFT
    writes in any order is compared as a set.
    """
    store, found = out / "store", {}
    for path in sorted(p for p in store.rglob("*") if p.is_file()):
        name = path.relative_to(store).as_posix()
        if path.suffix == ".lock" or name.startswith(("judge_cache", "damaged/")):
            continue
        found[name] = _content(path)
    for path in (out / "sweeps").glob("*/summary.json"):
        models = json.loads(path.read_text())["models"]
        found[f"numbers of {path.parent.name}"] = [[m["label"], m["status"], m["metrics"]] for m in models]
    return found


def _content(path: Path) -> object:
    if path.name == "manifest.json":
        manifest = json.loads(path.read_text())
        facts = {k: v for k, v in manifest["facts"].items() if k not in MAY_DIFFER}
        return manifest["inputs"], facts, sorted(manifest["files"])
    if path.name == "train_log.jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [{k: v for k, v in row.items() if k not in MAY_DIFFER} for row in rows]
    if path.name == "adapter_config.json":
        row = json.loads(path.read_text())
        return {**row, "target_modules": sorted(row["target_modules"])}
    return path.read_bytes()


def differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """Names of what differs, with the two contents where they are short."""
    names = [n for n in sorted({*one, *other}) if one.get(n) != other.get(n)]
    return [f"{n}: {str(one.get(n))[:300]} / {str(other.get(n))[:300]}" for n in names]


def processes(root: int) -> list[psutil.Process]:
    """A sweep's process and all below it that are alive."""
    try:
        main = psutil.Process(root)
        return [p for p in [main, *main.children(recursive=True)] if p.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return []


def kill_one(process: subprocess.Popen[str], seconds: float, rng: random.Random) -> str:
    """SIGKILL to a random process of the sweep after so many seconds. Returns what it was, "" when all had ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        time.sleep(0.01)
    alive = processes(process.pid)
    return kill(rng.choice(alive), process, alive) if process.poll() is None and alive else ""


def kill(victim: psutil.Process, process: subprocess.Popen[str], alive: list[psutil.Process]) -> str:
    """SIGKILL to one of the processes alive of a sweep; all the others end with the main one. Returns what it was."""
    try:
        words = victim.cmdline()
        victim.kill()
    except psutil.NoSuchProcess:
        return ""
    if victim.pid == process.pid:
        below = [p for p in alive if p.pid != victim.pid]
        psutil.wait_procs(below, timeout=30)
        left = [p for p in below if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        assert not left, f"processes outlive a killed sweep: {[p.cmdline() for p in left]}"
    return " ".join(words[words.index("-m") + 1 :][:2]) if "-m" in words else " ".join(words[:2])


def wait_for(condition, process: subprocess.Popen[str], seconds: float = WAIT_S) -> bool:
    """Whether the condition came true while the process was running."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        if condition():
            return True
        time.sleep(0.002)
    return False


def flip_bit(path: Path, rng: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    at = rng.randrange(8 * len(raw))
    raw[at // 8] ^= 1 << at % 8
    path.write_bytes(raw)
