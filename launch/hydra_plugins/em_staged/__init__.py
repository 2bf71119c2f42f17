"""Hydra launcher that hands all cells of a multirun to the planner at once.

Imported by Hydra at every start, so it imports nothing heavy; and without `from __future__ import annotations`,
which Hydra 1.3's plugin scan cannot read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class StagedConf:
    _target_: str = "hydra_plugins.em_staged.StagedLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="staged", node=StagedConf, provider="em")


class StagedLauncher(Launcher):
    """Composes every cell, runs them as one sweep, stage by stage (em/sweep.py)."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from em.run import run_cells

        loader = self.hydra_context.config_loader
        composed = [loader.load_sweep_config(self.config, list(overrides)) for overrides in job_overrides]
        composed = [OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]) for cfg in composed]
        errors = run_cells(composed)
        results = []
        for overrides, cfg, error in zip(job_overrides, composed, errors, strict=True):
            result = JobReturn()
            result.overrides, result.cfg = list(overrides), cfg
            result.status = JobStatus.FAILED if error else JobStatus.COMPLETED
            # Hydra's sweeper raises what a failed job returned; its sentence has been printed already
            result.return_value = SystemExit(1) if error else None
            results.append(result)
        return results
