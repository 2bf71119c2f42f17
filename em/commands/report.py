"""`em report`: print a sweep's table, and write its figures and HTML report again."""

from __future__ import annotations

import argparse
import textwrap
import webbrowser
from typing import Any

from em.commands import add_sweep, example
from em.store import StoreError
from em.sweep.folder import read_summary


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "report",
        help="print a sweep's table, and write its figures and report again",
        epilog=example("em report em-1a2b3c4d --open"),
    )
    add_sweep(sub)
    sub.add_argument(
        "--open", nargs="?", choices=("yes", "no"), const="yes", default="no", help="show the report in a browser"
    )


def run(arguments: argparse.Namespace) -> int:
    from em.reporting import table
    from em.reporting.page import publish
    from em.runtime.terminal import PAGE, width

    folder = arguments.folder
    summary = read_summary(folder)
    if summary.get("format", 1) != 2:
        raise StoreError(f"{folder} was made by another version of em: run its command again, nothing is sampled twice")
    print(table.table(summary, width()))
    print("\n" + textwrap.fill(summary["statement"], min(width(), PAGE)))
    page = publish(folder, summary)
    print(f"\nreport   {page} ({page.stat().st_size / 1e6:.1f} MB)")
    if arguments.open == "yes" and not webbrowser.open(page.resolve().as_uri()):
        print("no browser was found: open the file by hand")
    return 0
