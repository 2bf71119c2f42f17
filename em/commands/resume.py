"""`em resume`: continue a sweep from its folder, without typing its overrides again."""

from __future__ import annotations

import argparse
from typing import Any

from em.commands import add_sweep, example
from em.store import layout
from em.sweep.folder import configs_of


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "resume",
        help="run what a sweep still lacks, with the configs in its sweep.json",
        epilog=example("em resume em-1a2b3c4d"),
    )
    add_sweep(sub)
    sub.add_argument(
        "--errors", action="store_true", help="ask the judge again about answers whose judgement is an error"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the rest on this machine. Return 1 if a cell failed. Refuses while jobs of the sweep are in SLURM's queue."""
    from em.run import run_loaded

    if (arguments.folder / layout.JOBS).exists():
        from em import slurm

        slurm.refuse_twice(arguments.folder)
        print(f"em: continues on this machine; to submit the rest to SLURM: `{slurm.command(arguments.folder)}`")
    ends = run_loaded(configs_of(arguments.folder), errors_again=arguments.errors)
    return 1 if any(end.error for end in ends) else 0
