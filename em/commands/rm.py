"""`em rm`: remove sweeps, and what the store keeps for them alone."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.commands import add_sweep, example

if TYPE_CHECKING:
    from em.store import Store
    from em.sweep.inventory import Listed, Removal


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "rm",
        help="remove sweeps, and what only they need of the store; shows it and asks first",
        description="Remove sweeps: their folders, and the stages of the store that no other sweep and no screening\n"
        "below the same folder needs. Shows what would go and asks. Refuses while a sweep that uses this store is\n"
        "running.",
        epilog=example("em rm em-1a2b3c4d"),
    )
    add_sweep(sub, "folders", nargs="+")
    sub.add_argument("--yes", action="store_true", help="do not ask")


def run(arguments: argparse.Namespace) -> int:
    from em.errors import ConfigError
    from em.store import Store, StoreError
    from em.sweep import inventory

    for folder in arguments.folders:
        if not inventory.is_sweep(folder):
            raise StoreError(f"{folder} is no sweep: em list shows those that are here")
    wanted = {folder.resolve() for folder in arguments.folders}
    outs = {folder.parents[1] for folder in wanted}
    if len(outs) > 1:
        raise ConfigError("em rm takes sweeps of one output folder: call it once for each")
    (out,) = outs

    def what(every: Sequence[Listed]) -> Removal:
        chosen = [sweep for sweep in every if sweep.folder.resolve() in wanted]
        return inventory.only_of(chosen, every, Store.open_read_only(out))

    return remove(out, what, arguments.yes)


def remove(out: Path, chosen: Callable[[Sequence[Listed]], Removal], yes: bool) -> int:
    """Show what would go, ask, and remove it. Return 1 if the answer was no.

    `chosen` says of the sweeps below <out> what goes. It is asked again after the answer: a sweep may have begun, and
    ended, meanwhile. Raises StoreError then, while a sweep that uses the store runs or waits, and for a store that is a
    link.
    """
    from em.store import Store, StoreError, in_use
    from em.sweep import inventory

    if (out / "store").is_symlink():
        raise StoreError(
            f"{out / 'store'} is a link, and sweeps of other folders may need what it holds: nothing was removed; "
            "put the store itself there"
        )
    every = inventory.sweeps(out)
    what = chosen(every)
    require_idle(every)
    store = Store.open(out) if (out / "store").is_dir() else None
    total = _show(what, store)
    if not (what.folders or what.stages or what.leftovers):
        print("nothing to remove")
        return 0
    if not (yes or _agreed(total)):
        print("nothing was removed")
        return 1
    if store is None:
        _delete_folders(what)
    else:
        with in_use.alone(store.root):
            if chosen(inventory.sweeps(out)) != what:
                raise StoreError(f"what the sweeps of {out} need has changed meanwhile: nothing was removed; try again")
            for stage in what.stages:
                store.remove(*stage)
            _delete_folders(what)
    print(f"removed {total}")
    return 0


def require_idle(every: Iterable[Listed]) -> None:
    """Raise StoreError if a sweep runs, or waits in SLURM's queue."""
    from em.store import StoreError, layout

    for sweep in every:
        if sweep.state == "running":
            raise StoreError(f"{sweep.folder} is running: nothing was removed; wait until it ends")
        if (sweep.folder / layout.JOBS).exists():
            from em import slurm

            if slurm.in_queue(sweep.folder):
                raise StoreError(f"{sweep.folder} has jobs in SLURM's queue: nothing was removed; wait or cancel them")


def _show(what: Removal, store: Store | None) -> str:
    """Print a row per folder and per kind of stage. Return the sum of their sizes as text."""
    from em.runtime import terminal
    from em.sweep import inventory

    sizes = {str(path): inventory.size(path) for path in (*what.folders, *what.leftovers)}
    counts: dict[str, list[int]] = {}
    for stage, key in what.stages if store else ():
        assert store is not None
        counts.setdefault(stage, []).append(inventory.size_of_stage(store, stage, key))
    rows = [(name, "", terminal.size_text(bytes_)) for name, bytes_ in sizes.items()]
    rows += [(f"{name} in the store", str(len(all_)), terminal.size_text(sum(all_))) for name, all_ in counts.items()]
    total = terminal.size_text(sum(sizes.values()) + sum(map(sum, counts.values())))
    if rows:
        rows.append(("together", "", total))
        print(terminal.printed(terminal.grid(("would go", "stages", "size"), rows, terminal.most())))
    return total


def _agreed(total: str) -> bool:
    """Ask on the terminal. Raises ConfigError where nobody can answer."""
    from em.errors import ConfigError

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("nothing was removed: there is no terminal to ask on; give --yes to remove it")
    return input(f"remove {total} for good? [y/N] ").strip().lower() in ("y", "yes")


def _delete_folders(what: Removal) -> None:
    for path in (*what.leftovers, *what.folders):
        shutil.rmtree(path)
