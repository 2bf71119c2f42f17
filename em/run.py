"""The page: `python -m em.run [-m] key=value ...` → config → plan → stages → report.

Hydra composes the cells. One cell is a sweep of one; all cells of `-m` run together, stage by stage (sweep/sweep.py).
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from em import config
from em.config import CONF_DIR, ExperimentConfig, compose
from em.config.help import show as show_help
from em.config.help import wanted as help_wanted
from em.errors import UserError
from em.runtime.preempt import PREEMPTED, Preempted, raise_on_stop

if TYPE_CHECKING:
    from em.metrics.summary_types import ModelRow, Summary
    from em.sweep.state import Share, Sweep


config.register()


@dataclass(frozen=True)
class Ended:
    """How a cell ended."""

    error: str
    """The error message; "" if the cell is done."""
    rate: float | None = None
    """Its misaligned rate on the headline questions, which a sweeper such as Optuna reads. None if withheld."""


def run_cells(composed: Sequence[DictConfig]) -> list[Ended]:
    """Run cells as one sweep and print the results. Return how each cell ended."""
    from em.planning import recipe

    with _without_traceback():
        cells = [recipe.load(c) for c in composed]
    return run_loaded(cells)


def run_loaded(
    cells: Sequence[ExperimentConfig], share: Share | None = None, errors_again: bool = False
) -> list[Ended]:
    """Run typed configs as one sweep, as `em resume` has them. With a share, the result has one entry per model of it.

    `errors_again`: ask an API judge again where it gave an error.
    """
    from em.reporting.table import table
    from em.runtime import terminal
    from em.store import layout

    rates: dict[str, float | None] = {}
    with _without_traceback(), raise_on_stop():
        done, summary = results_of(cells, share, errors_again)
        if summary is not None:
            rates = {model["id"]: _headline(model) for model in summary["models"]}
            _print(table(summary, terminal.width()))
            _print("\n" + textwrap.fill(summary["statement"], min(terminal.width(), terminal.PAGE)) + "\n")
            for name in ("figures", layout.REPORT, layout.SUMMARY):
                _print(f"{name.split('.')[0]:8} {done.folder / name}")
            _print("counters " + ", ".join(f"{k} {v}" for k, v in summary["counters"].items()))
            lost = sum(1 for cell in done.plan.cells if done.first_error(cell))
            if lost:
                _print(f"{lost} of {len(done.plan.cells)} cells failed: em status {done.folder}")
    return [Ended(done.first_error(s), rates.get(s.id)) for s in (done.subjects() if share else done.plan.cells)]


def results_of(
    cells: Sequence[ExperimentConfig], share: Share | None = None, errors_again: bool = False
) -> tuple[Sweep, Summary | None]:
    """Run typed configs as one sweep, write its results and log them. No summary if launch.stages has no report."""
    from em.reporting import unchanged, write
    from em.sweep import sweep
    from em.tracking import finished, live

    done = sweep.run(cells, share, errors_again, around=live.following)
    if "report" not in done.stages:
        return done, None
    summary = unchanged.summary(done) or unchanged.remember(done, write.write(done))
    finished.log(done, summary)
    return done, summary


def _headline(model: ModelRow) -> float | None:
    found = (m["value"] for m in model["metrics"] if (m["name"], m["group"]) == ("misaligned_rate", "open"))
    return next(found, None)


@contextmanager
def _without_traceback() -> Iterator[None]:
    """End the program with the message of an error that a person can fix, without a traceback."""
    from em.runtime.disk import cannot_write
    from em.runtime.events import error_message

    try:
        yield
    except UserError as error:
        sys.exit(f"em: {error}")
    except OSError as error:
        if not cannot_write(error):
            raise
        sys.exit(f"em: {error_message(error)}. What is finished is kept; the same command continues.")
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"\nem: {str(stop) or 'stopped'}. What is finished is kept; the same command continues.\n")
        if isinstance(stop, Preempted):
            raise
        sys.exit(130)


@contextmanager
def _hydra_without_traceback() -> Iterator[None]:
    """End the program with the message for wrong overrides. With HYDRA_FULL_ERROR set, show the whole traceback."""
    if os.environ.get("HYDRA_FULL_ERROR"):
        yield
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints what it has to say, and ends
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"em: {compose.message(error)}")
    except (AssertionError, AttributeError) as error:
        if not compose.of_null_group(error):
            raise
        sys.exit(f"em: {compose.null_group_message(sys.argv[1:])}")


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


@hydra.main(version_base="1.3", config_path=CONF_DIR, config_name="config")
def main(cfg: DictConfig) -> None:
    if any(end.error for end in run_cells([cfg])):
        sys.exit(1)


def start(arguments: Sequence[str]) -> None:
    """Run what the command line says, with the words after `python -m em.run` or `em run`; end the program if it
    fails."""
    from em.runtime import terminal

    words = terminal.take_level(list(arguments))
    if help_wanted(words):
        sys.exit(show_help(words))
    shows = [w for w in words if w in ("--cfg", "-c", "--info", "-i")]
    if shows and {"-m", "--multirun"} & set(words):
        sys.exit(f"em: {shows[0]} shows one run: leave -m out, or list the runs of a sweep with em plan")
    sys.argv[1:] = words  # where Hydra reads them
    try:
        with _hydra_without_traceback():
            main()
        sys.stdout.flush()
    except BrokenPipeError:  # `em run --hydra-help | head`: the reader has closed the pipe
        terminal.end_on_closed_pipe()
    except Preempted:
        sys.exit(PREEMPTED)


if __name__ == "__main__":
    start(sys.argv[1:])
