"""One module per subcommand of `em`: `add(commands)` declares its arguments, `run(arguments)` returns the exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def add_config_dir(sub: argparse.ArgumentParser) -> None:
    """Declare --config-dir for a subcommand that composes configs."""
    text = "a folder with options of your own, e.g. DIR/dataset/mine.yaml for dataset=mine"
    sub.add_argument("--config-dir", type=Path, metavar="DIR", help=text)


@contextmanager
def progress(total: int, label: str) -> Iterator[Callable[[], Any]]:
    """Show a progress bar of verdicts if stderr is a terminal. Yield a function to call after each verdict."""
    from tqdm import tqdm

    with tqdm(total=total, desc=label, unit=" verdicts", file=sys.stderr, disable=None, leave=False) as bar:
        yield bar.update
