"""`em report`: print a sweep's table, and write its figures and HTML report again."""

from __future__ import annotations

import argparse
import textwrap
import webbrowser
from pathlib import Path
from typing import Any

from em.store import StoreError
from em.sweep.folder import read_summary


def add(commands: Any) -> None:
    sub = commands.add_parser("report", help="print a sweep's table, and write its figures and report again")
    sub.add_argument("folder", type=Path, help="a folder below outputs/sweeps")
    sub.add_argument("--open", choices=("yes", "no"), default="no", help="show the report in a browser (default: no)")


def run(arguments: argparse.Namespace) -> int:
    from em.reporting import table
    from em.reporting.page import publish

    folder = arguments.folder
    summary = read_summary(folder)
    if summary.get("format", 1) != 2:
        raise StoreError(f"{folder} was made by another version of em: run its command again, nothing is sampled twice")
    print(table.table(summary))
    print("\n" + textwrap.fill(summary["statement"], table.WIDTH))
    page = publish(folder, summary)
    print(f"\nreport   {page} ({page.stat().st_size / 1e6:.1f} MB)")
    if arguments.open == "yes" and not webbrowser.open(page.resolve().as_uri()):
        print("no browser was found: open the file by hand")
    return 0
