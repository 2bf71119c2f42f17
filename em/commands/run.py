"""`em run` in the list of commands. em/cli.py gives its words to Hydra, as `python -m em.run` does."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    sub = commands.add_parser("run", help="run an experiment, or with -m a sweep (em run --help lists every option)")
    sub.add_argument("-m", "--multirun", action="store_true", help="run the product of all comma-separated values")
    sub.add_argument("overrides", nargs="*", help="key=value, e.g. dataset=insecure,secure seed=0,1")


def run(arguments: argparse.Namespace) -> int:
    raise AssertionError("em.cli hands `em run` to Hydra")
