"""`em compare`: compare a sweep's numbers with published ones (metrics/published.yaml: recipe, band, source)."""

from __future__ import annotations

import argparse
from typing import Any

from em.commands import add_sweep, example
from em.sweep.folder import read_summary


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "compare",
        help="compare a sweep's numbers with published ones: inside the band, outside, or not comparable",
        epilog=example("em compare em-1a2b3c4d"),
    )
    add_sweep(sub)


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
