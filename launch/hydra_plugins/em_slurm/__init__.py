"""`hydra/launcher=slurm`: submits a sweep to SLURM and returns (em/slurm.py, docs/cluster.md).

The settings are hydra-submitit-launcher's, with a few of our own. Its launcher is not used: it waits for the jobs,
shows failed ones as COMPLETED, and requeues from inside the signal handler, before anything could be saved.

Imported by Hydra at every start, so it imports nothing heavy; and without `from __future__ import annotations`,
which Hydra 1.3's plugin scan cannot read.
"""

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
    """A site's settings: launch/slurm/site.yaml says what each is for."""

    _target_: str = "hydra_plugins.em_slurm.SlurmLauncher"
    submitit_folder: str = ""
    """Where submitit keeps its files and the jobs' output; "" = logs/slurm in the sweep's folder."""
    name: str = ""
    """Job name, with the stage after it; "" = the sweep's."""
    timeout_min: int = 240
    signal_delay_s: int = 120
    """The stage is told to save this long before the time limit."""
    max_num_timeout: int = 20
    """How often a job that ran into its limit goes back into the queue."""
    stderr_to_stdout: bool = True
    gpus_per_node: Optional[int] = 1  # noqa: UP045
    cells_per_job: int = 1
    """Cells that share one job, one base-model load and one engine start."""
    python: Optional[str] = None  # noqa: UP045
    """What starts Python on a node, e.g. `apptainer exec --nv em.sif python`."""
    srun_args: List[str] = field(default_factory=list)  # noqa: UP006
    """Options of srun, e.g. a container's."""
    cpu: Dict[str, Any] = field(default_factory=dict)  # noqa: UP006
    """Settings that differ for jobs without a GPU: the report, and judging by an API."""
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
        return [("", math.nan)] * len(composed)  # submitted: nobody knows its rate yet
