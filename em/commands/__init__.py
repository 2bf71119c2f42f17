"""One module per subcommand of `em`: `add(commands)` declares its arguments, `run(arguments)` returns the exit code."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

SWEEP = "a sweep: its folder, or its name below outputs/sweeps, or the beginning of the name"


def add_config_dir(sub: argparse.ArgumentParser) -> None:
    """Declare --config-dir for a subcommand that composes configs."""
    text = "a folder with options of your own, e.g. DIR/dataset/mine.yaml for dataset=mine"
    sub.add_argument("--config-dir", type=Path, metavar="DIR", help=text)


def add_sweep(sub: argparse.ArgumentParser, name: str = "folder", **settings: Any) -> None:
    """Declare an argument that is a sweep: its folder, or its name below outputs/sweeps, or the beginning of one."""
    sub.add_argument(name, type=sweep_folder, help=SWEEP, **settings)


def sweep_folder(text: str) -> Path:
    """Return the folder of a sweep that a person named. What names none is returned as it is, for the error message.

    Raises StoreError if it is the beginning of several names.
    """
    path, below = Path(text), Path("outputs") / "sweeps"
    if path.exists() or "/" in text or not below.is_dir():
        return path
    found = sorted(p for p in below.iterdir() if p.is_dir() and p.name.startswith(text))
    exact = [p for p in found if p.name == text]
    if len(found) > 1 and not exact:
        from em.store import StoreError

        raise StoreError(f"{text} is the beginning of several sweeps: {', '.join(p.name for p in found)}")
    return (exact or found or [path])[0]


def example(text: str) -> str:
    """Return the epilog of a subcommand's --help."""
    return f"example: {text}"


@contextmanager
def progress(total: int, label: str) -> Iterator[Callable[[], Any]]:
    """Show the progress of verdicts. Yield a function to call after each verdict."""
    from em.runtime.terminal import Bar

    bar, done = Bar(), count(1)
    bar.show(label, 0, total, "verdicts")
    try:
        yield lambda: bar.show(label, next(done), total, "verdicts")
    finally:
        bar.close()
