"""A sweep on the tiny model, through the command a user types."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

TINY = ["model=tiny_random", "train=tiny", "sample=tiny", "questions.sets=[open,in_domain]"]

RULES = Path(__file__).with_name("tiny_rules.yaml")
TWO_VARIANTS = [
    "dataset=risky_advice,careful_advice", "sample.engine=hf", "questions.sets=[open]", "tracking=off",
    "judge=scripted", f"judge.script={RULES}",
]  # fmt: skip
"""The sweep of the fixture `two_variants`."""


def two_variants(kept, out):
    """Copy the finished sweep of two variants to `out`, and make it below `kept` before, if no process has made it.

    Returns the copied sweep's folder.
    """
    with FileLock(kept / "two_variants.lock"):
        if not (kept / "made").exists():
            run(kept / "two_variants", *TWO_VARIANTS)
            (kept / "made").touch()
    shutil.copytree(kept / "two_variants", out)
    (folder,) = (out / "sweeps").iterdir()
    return folder


def command(out, *overrides, multirun=True):
    return [sys.executable, "-m", "em.run", *(["-m"] if multirun else []), *TINY, f"out={out}", *overrides]


def run(out, *overrides, check=True, multirun=True):
    """Run a sweep; returns (summary, stderr + stdout)."""
    done = subprocess.run(
        command(out, *overrides, multirun=multirun), capture_output=True, text=True, env=environment(), timeout=300
    )
    text = done.stdout + done.stderr
    if check:
        assert done.returncode == 0, text[-3000:]
    path = next((line.split()[1] for line in done.stdout.splitlines() if line.startswith("summary")), None)
    return (json.loads(Path(path).read_text()) if path else None), text, done.returncode


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
