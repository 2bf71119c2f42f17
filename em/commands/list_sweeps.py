"""`em list`: the sweeps below an output folder, the newest first."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from em.commands import example


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "list", help="list the sweeps that are here: date, model, variants, state, size", epilog=example("em list")
    )
    sub.add_argument("--out", type=Path, default=Path("outputs"), help="folder of the store and the sweeps (outputs)")


def run(arguments: argparse.Namespace) -> int:
    from em.runtime import terminal
    from em.store import Store
    from em.sweep import inventory

    found, store = inventory.sweeps(arguments.out), Store.open_read_only(arguments.out)
    if not found:
        print(f"no sweep in {arguments.out / 'sweeps'}: em run makes one, em import reads judged files of others")
        return 0
    rows, every = [], {stage for sweep in found for stage in sweep.needs}
    for sweep in found:
        kept = sum(inventory.size_of_stage(store, *stage) for stage in sweep.needs)
        date = time.strftime("%Y-%m-%d %H:%M", time.localtime(sweep.changed))
        about = ", ".join(sweep.models), ", ".join(sweep.variants), str(sweep.cells)
        size = terminal.size_text(inventory.size(sweep.folder) + kept)
        rows.append((sweep.folder.name, date, *about, sweep.state, size))
    head = ("sweep", "changed", "model", "variants", "cells", "state", "size")
    print(terminal.printed(terminal.grid(head, rows, terminal.most(), wrapped=(2, 3))))
    total = sum(inventory.size(s.folder) for s in found) + sum(inventory.size_of_stage(store, *s) for s in every)
    count = f"{len(found)} sweep{'s' * (len(found) > 1)}, {terminal.size_text(total)}"
    print(f"\n{count}; what several sweeps share is counted once here")
    return 0
