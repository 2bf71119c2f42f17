"""Hydra launcher that plans all cells of a multirun together, and Hydra's own sweeper without double composing."""
# Hydra imports this module at every start, so it imports nothing heavy. It has no `from __future__ import annotations`,
# because Hydra 1.3 cannot read the annotations of a plugin that has.

import errno
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class StagedConf:
    _target_: str = "hydra_plugins.em_staged.StagedLauncher"


@dataclass
class StagedSweeperConf:
    _target_: str = "hydra_plugins.em_staged.StagedSweeper"
    max_batch_size: Optional[int] = None  # noqa: UP045  OmegaConf needs the names of typing
    params: Optional[dict[str, str]] = None  # noqa: UP045


ConfigStore.instance().store(group="hydra/launcher", name="staged", node=StagedConf, provider="em")
ConfigStore.instance().store(group="hydra/sweeper", name="staged", node=StagedSweeperConf, provider="em")


class StagedSweeper(BasicSweeper):
    """Hydra's own sweeper, which does not compose every cell twice: the launcher composes all before any runs.

    Raises an error for a glob that matches nothing.
    """

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        from em.config.compose import require_matches

        require_matches(overrides)
        return BasicSweeper.split_arguments(overrides, max_batch_size)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        pass


class StagedLauncher(Launcher):
    """Composes every cell and runs them as one sweep, stage by stage (em/sweep/sweep.py)."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        folder = Path(config.hydra.sweep.dir)  # the sweeper writes here later
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            sys.exit(f"em: cannot write to {folder} ({error.strerror}); change out=")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from em.config.compose import compose_all

        composed = compose_all(job_overrides, self.config.hydra.job.config_name)
        results = []
        for overrides, cfg, (error, value) in zip(job_overrides, composed, self.run(composed), strict=True):
            result = JobReturn()
            result.overrides, result.cfg = list(overrides), cfg
            result.status = JobStatus.FAILED if error else JobStatus.COMPLETED
            # Hydra's sweeper raises the return value of a failed job; its error is already on the terminal
            result.return_value = SystemExit(1) if error else value
            results.append(result)
        return results

    def run(self, composed: Sequence[DictConfig]) -> Sequence[tuple[str, float]]:
        """Return (error message or "", misaligned rate) per cell. A withheld rate is NaN, so no sweeper ranks it."""
        from em.run import run_cells

        ends = run_cells(composed)
        return [(end.error, math.nan if end.rate is None else end.rate) for end in ends]
