"""The page: `python -m em.run [-m] key=value ...` → config → plan → stages → report.

Hydra composes; one cell is a sweep of one; all cells of `-m` are run together, stage by stage (em/sweep.py).
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from em import compose, config
from em.config import CONF_DIR, ExperimentConfig
from em.help import show as show_help
from em.help import wanted as help_wanted
from em.preempt import PREEMPTED, Preempted, raised_when_asked
from em.schema.base import UserError

if TYPE_CHECKING:
    from em.sweep import Share

config.register()


@dataclass(frozen=True)
class Ended:
    """How a cell ended."""

    error: str
    """One sentence; "" where it is done."""
    rate: float | None = None
    """Its misaligned rate on the headline questions, what a sweeper such as Optuna works on; None where withheld."""


def run_cells(composed: Sequence[DictConfig]) -> list[Ended]:
    """Run cells as one sweep and print what came out."""
    with _without_traceback():
        cells = [config.load(c) for c in composed]
    return run_loaded(cells)


def run_loaded(
    cells: Sequence[ExperimentConfig], share: Share | None = None, errors_again: bool = False
) -> list[Ended]:
    """`run_cells` for typed configs, as `em resume` has them. With a share: one a model of it. `errors_again`: an API
    judge is asked again where it gave an error."""
    from em import kept, results, sweep, track
    from em.report import WIDTH, table

    rates: dict[str, float | None] = {}
    with _without_traceback(), raised_when_asked():
        done = sweep.run(cells, share, errors_again)
        if "report" in done.stages:
            summary = kept.summary(done) or kept.remember(done, results.write(done))
            track.log(done, summary)
            rates = {model["id"]: _headline(model) for model in summary["models"]}
            _print(table(summary))
            _print("\n" + textwrap.fill(summary["statement"], WIDTH) + "\n")
            for name in ("figures", "report.html", "summary.json"):
                _print(f"{name.split('.')[0]:8} {done.folder / name}")
            _print("counters " + ", ".join(f"{k} {v}" for k, v in summary["counters"].items()))
            lost = sum(1 for cell in done.plan.cells if done.why(cell))
            if lost:
                _print(f"{lost} of {len(done.plan.cells)} cells failed: em status {done.folder}")
    return [Ended(done.why(s), rates.get(s.id)) for s in (done.subjects() if share else done.plan.cells)]


def _headline(model: dict[str, Any]) -> float | None:
    found = (m["value"] for m in model["metrics"] if (m["name"], m["group"]) == ("misaligned_rate", "open"))
    return next(found, None)


def submit_cells(composed: Sequence[DictConfig], settings: dict[str, Any]) -> None:
    """Hand a sweep to SLURM and return; `settings` are hydra.launcher's (em_slurm)."""
    from em import slurm, sweep

    with _without_traceback():
        planned = sweep.planned([config.load(c) for c in composed])
        sweep.check_budget(planned)
        jobs = slurm.submit(planned, settings)
    for line in slurm.submitted(planned.folder, jobs):
        _print(line)


@contextmanager
def _without_traceback() -> Iterator[None]:
    """Errors that a person can mend end the program with their sentence, without a traceback."""
    from em.events import sentence
    from em.store import cannot_write

    try:
        yield
    except UserError as error:
        sys.exit(f"em: {error}")
    except OSError as error:
        if not cannot_write(error):
            raise
        sys.exit(f"em: {sentence(error)}. What is finished is kept; the same command continues.")
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"\nem: {str(stop) or 'stopped'}. What is finished is kept; the same command continues.\n")
        if isinstance(stop, Preempted):
            raise
        sys.exit(130)


@contextmanager
def _hydra_without_traceback() -> Iterator[None]:
    """Wrong overrides end the program with one sentence too. Who sets HYDRA_FULL_ERROR gets the whole traceback."""
    if os.environ.get("HYDRA_FULL_ERROR"):
        yield
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints what it has to say, and ends
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"em: {compose.sentence(error)}")


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


@hydra.main(version_base="1.3", config_path=CONF_DIR, config_name="config")
def main(cfg: DictConfig) -> None:
    if any(end.error for end in run_cells([cfg])):
        sys.exit(1)


if __name__ == "__main__":
    if help_wanted(sys.argv[1:]):
        sys.exit(show_help(sys.argv[1:]))
    try:
        with _hydra_without_traceback():
            main()
    except Preempted:
        sys.exit(PREEMPTED)
