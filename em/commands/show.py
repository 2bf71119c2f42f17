"""`em show`: open a sweep's report in a browser, or print where it is."""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser
from pathlib import Path
from typing import Any

from em.commands import add_sweep, example


def add(commands: Any) -> None:
    sub = commands.add_parser("show", help="open a sweep's report in a browser", epilog=example("em show em-1a2b3c4d"))
    add_sweep(sub)


def run(arguments: argparse.Namespace) -> int:
    """Print the report's path. Open it where a browser with a window can be."""
    from em.store import layout
    from em.sweep.folder import sweep_file

    page = sweep_file(arguments.folder, layout.REPORT)
    print(page)
    if not has_window():
        sys.stderr.write("em: no browser here: open the file on your machine\n")
    elif not open_page(page):
        sys.stderr.write("em: the browser did not start: open the file by hand\n")
    return 0


def has_window() -> bool:
    """Whether a browser can show a window: a display is there, or BROWSER names a program."""
    return sys.platform == "darwin" or any(os.environ.get(n) for n in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))


def open_page(page: Path) -> bool:
    return webbrowser.open(page.resolve().as_uri())
