"""Print one line per figure, `name value goal PASS|FAIL|info`, and decide the exit code of a benchmark.

Counters and sizes are gates at every size. Clocks are gates at full size only: at --tiny they are information.
"""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the option that every benchmark has, --tiny."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--tiny", action="store_true", help="a size of seconds: counters are gates, clocks are not")
    return made


class Result:
    """Collect the gates of one run. A run without a gate has not passed."""

    def __init__(self, tiny: bool) -> None:
        self.tiny = tiny
        self.held: list[bool] = []

    def gate(self, name: str, value: object, goal: object, held: bool) -> None:
        """Print a figure that must reach its goal at every size."""
        self.held.append(bool(held))
        print(name, value, goal, "PASS" if held else "FAIL", flush=True)

    def clock(self, name: str, value: object, goal: object, held: bool) -> None:
        """Print a figure that must reach its goal at full size; a tiny run only shows that it can be measured."""
        if self.tiny:
            self.info(name, value, goal)
        else:
            self.gate(name, value, goal, held)

    def info(self, name: str, value: object, goal: object = "-") -> None:
        """Print a figure that nothing depends on."""
        print(name, value, goal, "info", flush=True)

    def exit(self) -> NoReturn:
        """End the process: code 0 if there was a gate and every gate held, else 1."""
        if not self.held:
            print("no gate was measured", flush=True)
        sys.exit(0 if self.held and all(self.held) else 1)


def exit_unseen(name: str, reason: str) -> NoReturn:
    """End a tiny run with code 0 where this machine lacks what the benchmark needs, and say so."""
    print(f"{name} unseen: {reason}", flush=True)
    sys.exit(0)
