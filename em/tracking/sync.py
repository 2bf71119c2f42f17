"""Send offline runs to W&B with its own client. `offline_runs` finds them, `sync` sends them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

EARLIER = ("sweeps/*/wandb", "sweeps/*/cells/*/wandb")
"""Where runs of release 0.1.0 are."""


def offline_runs(out: Path) -> list[Path]:
    """Return the folders of the offline runs below <out>, the oldest first, whether they were sent before or not."""
    found = [run for place in ("wandb", *EARLIER) for run in out.glob(f"{place}/offline-run-*") if run.is_dir()]
    return sorted(found, key=lambda run: run.name)


def sync(runs: Sequence[Path]) -> int:
    """Send the runs that were not sent before. Return the exit code of W&B's client, which prints what it does.

    Fragments of one run are sent in the order in which they were made.
    """
    return subprocess.run([sys.executable, "-m", "wandb", "sync", *map(str, runs)], check=False).returncode
