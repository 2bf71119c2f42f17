"""`em paper`: collect finished sweeps into one page with a paper's figures in the paper's order."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from em.commands import example


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "paper",
        help="one page with a paper's figures in its order, ours beside the published numbers",
        epilog=example("em paper betley2025 --from outputs/sweeps/e1_insecure-1a2b3c4d"),
    )
    sub.add_argument("name", help="the paper, e.g. betley2025")
    sub.add_argument(
        "--from", dest="folders", nargs="+", type=Path, required=True, metavar="SWEEP", help="sweep folders"
    )
    sub.add_argument("--to", type=Path, metavar="FILE", help="the page (default: paper-NAME.html beside the sweeps)")


def run(arguments: argparse.Namespace) -> int:
    from em.reporting import paper

    out = arguments.to or arguments.folders[0].resolve().parent / f"paper-{arguments.name}.html"
    ran, entries = paper.write(arguments.name, arguments.folders, out)
    print(f"{ran} of {entries} figures and tables were run; the others say so")
    print(f"page     {out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0
