"""`em resume`: go on with a sweep from its folder, without typing its overrides again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from em.store import layout
from em.sweep.folder import configs_of


def add(commands: Any) -> None:
    sub = commands.add_parser("resume", help="run what a sweep still misses, from the configs it wrote down")
    sub.add_argument("folder", type=Path, help="a folder below outputs/sweeps")
    sub.add_argument("--errors", action="store_true", help="ask the judge again about answers it gave an error for")


def run(arguments: argparse.Namespace) -> int:
    """1 when a cell failed. On this machine, also what was submitted to SLURM; not while that is in the queue."""
    from em.run import run_loaded

    if (arguments.folder / layout.JOBS).exists():
        from em import slurm

        slurm.refuse_twice(arguments.folder)
        print(f"em: goes on here, on this machine; to SLURM it goes by `{slurm.command(arguments.folder)}`")
    ends = run_loaded(configs_of(arguments.folder), errors_again=arguments.errors)
    return 1 if any(end.error for end in ends) else 0
