"""What a person sees on the terminal: notes and progress bars on stderr, tables for stdout.

`--quiet` and `--verbose` set the level. Without a terminal there are no control codes, and progress is a plain line.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

EVERY_S = 15.0
"""Seconds between two lines of progress if stderr is no terminal."""
PAGE = 100
"""Width of text and tables if stdout is no terminal, and of prose at most."""
GAP = 2
"""Blanks between two columns of a table."""
_TIE = "\N{NO-BREAK SPACE}"
"""A blank at which no cell is broken. On the terminal it is a plain one."""


class Level(IntEnum):
    """How much is told."""

    quiet = 0
    """Results, warnings and errors."""
    normal = 1
    """Also notes and progress."""
    verbose = 2
    """Also every stage that starts and ends, with its log."""


class _Screen:
    """The state of this process's terminal: the level, and the bars that are shown."""

    level = Level.normal
    live: Progress | None = None
    bars = 0


def set_level(level: Level) -> None:
    """Set how much this process tells from now on."""
    _Screen.level = level


def take_level(arguments: list[str]) -> list[str]:
    """Set the level by --quiet and --verbose among the arguments. Return the other arguments."""
    levels = {"--quiet": Level.quiet, "-q": Level.quiet, "--verbose": Level.verbose, "-v": Level.verbose}
    for argument in arguments:
        if argument in levels:
            set_level(levels[argument])
    return [a for a in arguments if a not in levels]


def alert(text: str) -> None:
    """Print a warning or a failure on stderr, above any progress bar."""
    if _Screen.live is not None:
        _Screen.live.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
    else:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def note(text: str) -> None:
    """Print a line on stderr that --quiet leaves out."""
    if _Screen.level >= Level.normal:
        alert(text)


def detail(text: str) -> None:
    """Print a line on stderr that only --verbose shows."""
    if _Screen.level >= Level.verbose:
        alert(text)


def width() -> int:
    """Return the columns of the terminal behind stdout; PAGE if there is none."""
    return shutil.get_terminal_size((PAGE, 24)).columns if sys.stdout.isatty() else PAGE


def colours() -> bool:
    """Whether stdout takes colours: it is a terminal, and NO_COLOR is not set."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def end_on_closed_pipe() -> NoReturn:
    """End the program whose reader has closed the pipe, with the exit code of one that SIGPIPE ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports the pipe again when it exits
    sys.exit(141)


class Bar:
    """The progress of one worker: a bar on a terminal, else a line every EVERY_S seconds. Nothing under --quiet."""

    def __init__(self) -> None:
        self.title = ""
        self._task: TaskID | None = None
        self._told = 0.0

    def show(self, title: str, done: int, total: int, note: str = "") -> None:
        """Show `done` of `total`. Another title begins another bar. `note`: a word beside it, e.g. the loss."""
        if title != self.title:
            self.close()
            self.title, self._told = title, time.monotonic()
        if _Screen.level == Level.quiet:
            return
        if not sys.stderr.isatty():
            if time.monotonic() - self._told >= EVERY_S:
                self._told = time.monotonic()
                alert(f"{title}: {done} of {total}{note and ', ' + note}")
            return
        if self._task is None:
            self._task = _live().add_task(title, total=total, completed=done, note=note)
        elif _Screen.live is not None:
            _Screen.live.update(self._task, total=total, completed=done, note=note)

    def close(self) -> None:
        """Take the bar away. The last one gives the terminal back."""
        if self._task is not None and _Screen.live is not None:
            _Screen.live.remove_task(self._task)
            _Screen.bars -= 1
            if not _Screen.bars:
                _Screen.live.stop()
                _Screen.live = None
        self._task, self.title = None, ""


def _live() -> Progress:
    """Return the display that all bars share, with one more bar counted."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if _Screen.live is None:
        text = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[note]}", markup=False)
        columns = text[0], BarColumn(bar_width=None), MofNCompleteColumn(" of "), TimeRemainingColumn(), text[1]
        console = Console(file=sys.stderr)
        _Screen.live = Progress(*columns, console=console, transient=True, refresh_per_second=4, expand=True)
        _Screen.live.start()
    _Screen.bars += 1
    return _Screen.live


def grid(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    most: int | None = None,
    wrapped: Sequence[int] = (),
    right: Sequence[int] = (),
) -> list[str]:
    """Return a table as lines, with a rule below `head` (no head: ()). A newline in a cell begins a line of it.

    `right`: the columns aligned right. `most`: the table's greatest width, for which the columns `wrapped` are broken
    at blanks, the last of them first; None: none is broken. Nothing is cut: where the other columns and the longest
    words need more room, the table is wider.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    cells = [[str(cell) for cell in row] for row in ([head, *rows] if head else rows)]
    if not cells:
        return []
    columns = range(len(cells[0]))
    widths = [max(cell_len(line) for row in cells for line in row[i].split("\n")) for i in columns]
    words = [max((cell_len(word) for row in cells for word in _words(row[i])), default=0) for i in columns]
    least = [words[i] if i in wrapped else widths[i] for i in columns]
    for i in reversed(wrapped if most is not None else ()):
        over = sum(widths) + GAP * (len(widths) - 1) - (most or 0)
        widths[i] = max(least[i], widths[i] - max(0, over))
    table = Table(box=None, show_header=False, padding=(0, GAP, 0, 0), pad_edge=False)
    for i, wide in enumerate(widths):
        table.add_column(width=wide, no_wrap=True, justify="right" if i in right else "left")
    for place, row in enumerate(cells):
        table.add_row(
            *[
                Text(_wrapped(cell, w) if i in wrapped else cell)
                for i, cell, w in zip(columns, row, widths, strict=True)
            ]
        )
        if head and place == 0:
            table.add_row(*[Rule(characters="-", style="") for _ in row])
    wide = sum(widths) + GAP * (len(widths) - 1)
    console = Console(width=wide, color_system=None, force_terminal=False, force_jupyter=False)
    with console.capture() as captured:
        console.print(table)
    return [line.replace(_TIE, " ").rstrip() for line in captured.get().splitlines()]


def printed(lines: Sequence[str]) -> str:
    """Return a table with a head as text for stdout: the head is bold where there are colours."""
    if not (lines and colours()):
        return "\n".join(lines)
    return "\n".join([f"\x1b[1m{lines[0]}\x1b[0m", *lines[1:]])


def _words(text: str) -> list[str]:
    """Return the parts between which a cell may be broken: at plain blanks and line ends."""
    return [word for word in re.split("[ \n]", text) if word]


def _wrapped(text: str, most: int) -> str:
    """Break the lines of a cell at blanks, so that none is wider than `most` unless a word is."""
    from rich.cells import cell_len

    out = []
    for line in text.split("\n"):
        begun = ""
        for word in _words(line):
            longer = f"{begun} {word}" if begun else word
            if begun and cell_len(longer) > most:
                out.append(begun)
                longer = word
            begun = longer
        out.append(begun)
    return "\n".join(out)


def most() -> int | None:
    """Return the greatest width of a table on stdout: the terminal's; None, which wraps nothing, if there is none."""
    return width() if sys.stdout.isatty() else None


def size_text(count: int) -> str:
    """Return a number of bytes as text: '512 B', '3.4 MB'."""
    if count < 1000:
        return f"{count} B"
    power = min(4, (len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"
