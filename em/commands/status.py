"""`em status`: show what is done, running, missing or failed in a sweep folder."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from em.commands import add_sweep, example
from em.config.data import NO_TRAINING
from em.planning.stages import BY_NAME
from em.runtime import terminal
from em.store import Store, layout
from em.sweep import ledger
from em.sweep.folder import out_of, read_sweep


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "status",
        help="show what is done, running, missing or failed in a sweep folder",
        epilog=example("em status em-1a2b3c4d"),
    )
    add_sweep(sub)


def run(arguments: argparse.Namespace) -> int:
    """Print a row per cell: finished/all per stage with the progress of begun ones. Then the last errors, with logs.

    Return 1 if a cell has failed.
    """
    folder: Path = arguments.folder
    sweep = read_sweep(folder)
    store, last = Store.open(out_of(folder)), last_events(folder)
    states, rows, said = [], [], []
    for cell in sweep["cells"]:
        counts, errors, missing = {}, [], 0
        for stage, keys in cell["stages"].items():
            left = [key for key in keys if not store.has(stage, key)]
            missing += len(left)
            under_way = [
                progress(store, stage, key, sweep["work"]) for key in left if store.partial(stage, key).is_dir()
            ]
            counts[stage] = f"{len(keys) - len(left)}/{len(keys)}" + "".join(f" ({p})" for p in under_way)
            errors += [last[stage, k] for k in left if last.get((stage, k), {}).get("event") == "failed"]
        states.append("failed" if errors else "done" if not missing else "unfinished")
        rows.append((states[-1], cell["label"], counts))
        said += [f"{cell['label']}: {line}" for line in dict.fromkeys(error_line(folder, row) for row in errors)]
    print(terminal.printed(cell_table(rows)))
    said += early_stops([(c["label"], c.get("config", {}), c["stages"]) for c in sweep["cells"]], store)
    print("".join(f"{line}\n" for line in said), end="")
    go_on, waits = f"em resume {folder}", False
    if (folder / layout.JOBS).exists():  # submitted to SLURM
        from em import slurm

        print("\n".join(slurm.lines(folder)))
        go_on, waits = slurm.command(folder), slurm.in_queue(folder)
    print(f"logs: {folder / 'logs'}")
    if set(states) != {"done"} and not waits:
        print(f"go on with: {go_on}")
    return 1 if "failed" in states else 0


def cell_table(rows: Sequence[tuple[str, str, Mapping[str, str]]]) -> list[str]:
    """Return a table of cells from (state, label, stage → counts) each. A stage that a cell does not have is empty."""
    stages = sorted({stage for _, _, counts in rows for stage in counts}, key=list(BY_NAME).index)
    named = any(state for state, _, _ in rows)
    body = [(*([state] if named else []), label, *(counts.get(s, "") for s in stages)) for state, label, counts in rows]
    return terminal.grid((*(["state"] if named else []), "cell", *stages), body, terminal.most(), (int(named),))


def early_stops(cells: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Sequence[str]]]], store: Store) -> list[str]:
    """Return a line per cell with an early stop that says which step it serves, from (label, config, stage → keys)."""
    out = []
    for label, config, stages in cells:
        chosen = config.get("intervention", {})
        if chosen.get("name") == "early_stop" and chosen["dose"] > 0 and config["dataset"]["variant"] != NO_TRAINING:
            key = stages["train"][0]  # behind it: the plain run; an untouched cell's are of its direction
            said = "step not chosen yet"
            said = store.manifest("train", key)["facts"]["early_stop"] if store.has("train", key) else said
            out.append(f"{label}: early stop, {said}")
    return out


def last_events(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return (stage, key) → the last line of the ledger about it."""
    return {(row["stage"], row["key"]): row for row in ledger.rows(folder)}


def progress(store: Store, stage: str, key: str, work: dict[str, dict[str, int]]) -> str:
    """Return the progress of a stage that has begun, e.g. "40 of 120 steps"."""
    made = BY_NAME[stage]
    path = store.partial(stage, key) / made.rows
    done = path.read_bytes().count(b"\n") if path.is_file() else 0
    total = work.get(stage, {}).get(key)
    return f"{done} of {total} {made.unit}" if total else "begun"


def error_line(folder: Path, row: dict[str, Any]) -> str:
    log = f"  [log: {folder / 'logs' / Path(row['log']).name}]" if row.get("log") else ""
    return f"{row['stage']}: {row['error']}{log}"
