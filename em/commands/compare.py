"""`em compare`: compare a sweep's numbers with published ones (metrics/published.yaml: recipe, band, source)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from em.sweep.folder import read_summary


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "compare", help="compare a sweep's numbers with published ones: inside the band, outside, or not comparable"
    )
    sub.add_argument("folder", type=Path, help="a folder below outputs/sweeps")


def run(arguments: argparse.Namespace) -> int:
    from em.metrics import published

    summary = read_summary(arguments.folder)
    for control in summary["controls"]:
        print(f"{control['kind']} control: {control['sentence']}")
    rows = published.compare(summary)
    for line in published.lines(rows):
        print(line)
    if not rows:
        print("no published number is about these variants")
    counts = {v: sum(r["verdict"] == v for r in rows) for v in (published.INSIDE, published.OUTSIDE)}
    print(f"{counts['inside']} inside, {counts['outside']} outside, {len(rows) - sum(counts.values())} not comparable")
    return 0
