"""`em resume`: go on with a sweep from its folder, without typing its overrides again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from em.commands import configs_of


def add(commands: Any) -> None:
    sub = commands.add_parser("resume", help="run what a sweep still misses, from the configs it wrote down")
    sub.add_argument("folder", type=Path, help="a folder below outputs/sweeps")


def run(arguments: argparse.Namespace) -> int:
    """1 when a cell failed."""
    from em.run import run_loaded

    return 1 if any(end.error for end in run_loaded(configs_of(arguments.folder))) else 0
