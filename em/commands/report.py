"""`em report`: a sweep's table again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from em.commands import sweep_file


def add(commands: Any) -> None:
    sub = commands.add_parser("report", help="print a sweep's table again and say where its report is")
    sub.add_argument("folder", type=Path, help="a folder below outputs/sweeps")


def run(arguments: argparse.Namespace) -> int:
    from em.report import table

    summary = json.loads(sweep_file(arguments.folder, "summary.json").read_text(encoding="utf-8"))
    print(table(summary))
    print("\n" + summary["statement"])
    print(f"\nreport   {arguments.folder / 'report.html'}")
    return 0
