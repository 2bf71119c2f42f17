"""`em gc`: remove what no sweep needs from the store."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from em.commands import example


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "gc",
        help="remove what no sweep needs from the store; shows it and asks first",
        description="Remove from the store: stages, finished or begun, that no sweep and no screening (em screen) of\n"
        "the same folder needs, calibrations too, and damaged stages that were set aside. Shows what would go and\n"
        "asks. Refuses while a sweep is running. Benchmarks, verdicts of em judge calibrate with their calibrations,\n"
        "and the cache of judge calls stay.",
        epilog=example("em gc"),
    )
    sub.add_argument("--out", type=Path, default=Path("outputs"), help="folder of the store and the sweeps (outputs)")
    sub.add_argument("--yes", action="store_true", help="do not ask")


def run(arguments: argparse.Namespace) -> int:
    from em.commands.rm import remove
    from em.errors import ConfigError
    from em.store import Store
    from em.sweep import inventory

    if not (arguments.out / "store").is_dir():
        raise ConfigError(f"{arguments.out} holds no store: --out names the folder of the store and the sweeps")
    store = Store.open(arguments.out)
    return remove(arguments.out, lambda every: inventory.unneeded(every, store), arguments.yes)
