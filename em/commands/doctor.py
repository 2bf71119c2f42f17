"""`em doctor`: check before a run what could stop it."""

from __future__ import annotations

import argparse
from typing import Any

from em import config
from em.commands import add_config_dir, example
from em.config import compose
from em.planning import doctor, recipe


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "doctor",
        help="check disk, memory, GPU, keys, versions and files for a run",
        epilog=example("em doctor model=qwen2_5_coder_32b judge=gpt_4o"),
    )
    sub.add_argument("overrides", nargs="*", help="as for em.run, e.g. model=qwen2_5_coder_32b judge=gpt_4o")
    add_config_dir(sub)


def run(arguments: argparse.Namespace) -> int:
    config.register()
    failed = 0
    for cell in compose.cells(arguments.overrides, arguments.config_dir):
        loaded = recipe.load(cell)
        print(f"model={loaded.model.name} dataset={loaded.dataset.variant}")
        for finding in doctor.examine(loaded):
            failed += not finding.ok
            print(f"  {'ok  ' if finding.ok else 'FAIL'} {finding.subject:9} {finding.text}")
    return 1 if failed else 0
