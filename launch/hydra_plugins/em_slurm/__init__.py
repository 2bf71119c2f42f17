"""`hydra/launcher=slurm`: submit a sweep to SLURM and return (em/slurm.py, docs/cluster.md).

The settings are those of hydra-submitit-launcher, and some of our own. We do not use its launcher, because it waits for
the jobs, shows failed jobs as COMPLETED, and requeues in the signal handler, before the stage can save.
"""
# Hydra imports this module at every start, so it imports nothing heavy. It has no `from __future__ import annotations`,
# because Hydra 1.3 cannot read the annotations of a plugin that has.

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional  # noqa: UP035  omegaconf's own spelling

from hydra.core.config_store import ConfigStore
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.em_staged import StagedLauncher


@dataclass
class SlurmConf(SlurmQueueConf):
    """Settings of a site. launch/slurm/site.yaml explains each."""

    _target_: str = "hydra_plugins.em_slurm.SlurmLauncher"
    submitit_folder: str = ""
    """Folder of submitit's files and the jobs' output; "" = logs/slurm in the sweep's folder."""
    name: str = ""
    """Job name, to which the stage is added; "" = the name of the sweep."""
    timeout_min: int = 240
    signal_delay_s: int = 120
    """Seconds before the time limit at which the stage gets the signal to save."""
    max_num_timeout: int = 20
    """How often a job that reached its time limit is requeued."""
    stderr_to_stdout: bool = True
    gpus_per_node: Optional[int] = 1  # noqa: UP045
    cells_per_job: int = 1
    """Number of cells per job. They share the load of the base model and the start of the engine."""
    python: Optional[str] = None  # noqa: UP045
    """Command that starts Python on a node, e.g. `apptainer exec --nv em.sif python`."""
    srun_args: List[str] = field(default_factory=list)  # noqa: UP006
    """Options of srun, e.g. for a container."""
    cpu: Dict[str, Any] = field(default_factory=dict)  # noqa: UP006
    """Settings that differ for jobs without a GPU: the report, and judges behind an API."""
    train: Dict[str, Any] = field(default_factory=dict)  # noqa: UP006
    sample: Dict[str, Any] = field(default_factory=dict)  # noqa: UP006
    judge: Dict[str, Any] = field(default_factory=dict)  # noqa: UP006
    report: Dict[str, Any] = field(default_factory=dict)  # noqa: UP006


ConfigStore.instance().store(group="hydra/launcher", name="slurm", node=SlurmConf, provider="em")


class SlurmLauncher(StagedLauncher):
    """Composes every cell, plans them as one sweep, and submits what is left to do."""

    def __init__(self, **settings: Any) -> None:
        self.settings = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in settings.items()}

    def run(self, composed: Sequence[DictConfig]) -> Sequence[tuple[str, float]]:
        from em.slurm import submit_cells

        submit_cells(composed, self.settings)
        return [("", math.nan)] * len(composed)  # submitted: the rates are not known yet
