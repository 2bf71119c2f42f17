"""`em sync`: send the offline runs below <out> to Weights & Biases."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from em.commands import example
from em.errors import ConfigError
from em.runtime.credentials import has_key


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "sync", help="send offline runs to W&B; what was sent before is left out", epilog=example("em sync")
    )
    sub.add_argument("--out", type=Path, default=Path("outputs"), help="folder of the store and the sweeps")


def run(arguments: argparse.Namespace) -> int:
    """Return the exit code of W&B's client."""
    from em.tracking import sync

    found = sync.offline_runs(arguments.out)
    if not found:
        print(f"no offline run below {arguments.out}: a sweep with tracking.mode=offline makes some")
        return 0
    if not has_key():
        raise ConfigError("em sync needs a W&B key: export WANDB_API_KEY or run wandb login")
    return sync.sync(found)
