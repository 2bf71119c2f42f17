"""`em status`: what is done, missing or failed in a sweep folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from em.commands import sweep_file
from em.store import Store, StoreError


def add(commands: Any) -> None:
    sub = commands.add_parser("status", help="what is done, missing or failed in a sweep folder")
    sub.add_argument("folder", type=Path, help="a folder below outputs/sweeps")


def run(arguments: argparse.Namespace) -> int:
    """One line a cell: each stage done / of all, and the last error."""
    sweep = json.loads(sweep_file(arguments.folder, "sweep.json").read_text())
    out = arguments.folder.resolve().parents[1]  # <out>/sweeps/<this folder>, from wherever it is looked at
    if not (out / "store").is_dir():
        raise StoreError(f"{out} holds no store: a sweep folder lies in <out>/sweeps/")
    store = Store.open(out)
    ledger = arguments.folder / "ledger.jsonl"
    last = {}
    text = ledger.read_text(encoding="utf-8") if ledger.exists() else ""
    for line in text[: text.rfind("\n") + 1].splitlines():  # a kill may have cut the last one
        row = json.loads(line)
        last[row["stage"], row["key"]] = row
    failed = False
    for cell in sweep["cells"]:
        parts, errors, missing = [], [], 0
        for stage, keys in cell["stages"].items():
            done = sum(store.has(stage, key) for key in keys)
            missing += len(keys) - done
            partial = any(store.partial(stage, key).is_dir() for key in keys)
            parts.append(f"{stage} {done}/{len(keys)}" + ("…" if partial else ""))
            errors += [
                last[stage, k]["error"]
                for k in keys
                if not store.has(stage, k) and last.get((stage, k), {}).get("event") == "failed"
            ]
        state = "failed" if errors else "done" if not missing else "unfinished"
        failed |= bool(errors)
        print(f"{state:10} {cell['label']:28} {'  '.join(parts)}")
        for error in dict.fromkeys(errors):
            print(f"           {error}")
    print(f"logs: {arguments.folder / 'logs'}")
    return 1 if failed else 0
