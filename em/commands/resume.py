"""`em resume`: go on with a sweep from its folder, without typing its overrides again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from em.commands import out_of, read_sweep


def add(commands: Any) -> None:
    sub = commands.add_parser("resume", help="run what a sweep still misses, from the configs it wrote down")
    sub.add_argument("folder", type=Path, help="a folder below outputs/sweeps")


def run(arguments: argparse.Namespace) -> int:
    """The cells of sweep.json as they were resolved, in the folder where they are now. 1 when a cell failed."""
    from omegaconf import OmegaConf

    from em import config
    from em.run import run_loaded

    cells = [cell for cell in read_sweep(arguments.folder)["cells"] if cell["kind"] == "cell"]
    out = str(out_of(arguments.folder))
    rows = [{**cell["config"], "out": out} for cell in cells]
    return 1 if any(run_loaded([config.load(OmegaConf.create(row)) for row in rows])) else 0
