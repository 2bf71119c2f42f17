"""The table of stages: names, worker modules, devices, files. Other lists of stages are made from it.

A worker module has `work(store, jobs, emit)`; the annotation of `jobs` is the type of its jobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from em.store import layout


class Device(Enum):
    """Whether a worker holds devices of the machine (GPUs, or the CPU of a machine without one)."""

    never = "never"
    always = "always"
    local_judge = "local_judge"
    """For a judge that runs on this machine."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the plan, or another kind of job that a worker does."""

    name: str
    """Also the stage's folder in the store."""
    worker: str = ""
    """Module that does its jobs in a process of its own; empty: the sweep does them itself."""
    device: Device = Device.never
    splits: bool = False
    """Whether the jobs of one batch may be shared among several workers, a device or several for each."""
    of_base: bool = False
    """Whether the untouched model has this stage too."""
    rows: str = ""
    """The file that grows by a line per unit of work."""
    unit: str = ""
    """The unit of a line of `rows`, in the plural."""
    verified: tuple[str, ...] | None = ()
    """Files that a sweep compares with the manifest each time it starts; None: all. The others are compared only when a
    job that is still to be done reads them."""


DATA = Stage(name="data", worker="em.data.stage")
"""The sweep builds datasets before all else; a worker builds those whose rows are chosen by scores."""
TRAIN = Stage(
    name="train",
    worker="em.training.stage",
    device=Device.always,
    splits=True,
    rows=layout.TRAIN_LOG,
    unit="steps",
    verified=(layout.TRAIN_LOG,),
)
SAMPLE = Stage(
    name="sample",
    worker="em.sampling.stage",
    device=Device.always,
    splits=True,
    of_base=True,
    rows=layout.COMPLETIONS,
    unit="answers",
    verified=None,
)
JUDGE = Stage(
    name="judge",
    worker="em.judging.stage",
    device=Device.local_judge,
    of_base=True,
    rows=layout.JUDGEMENTS,
    unit="verdicts",
    verified=None,
)
CALIBRATE = Stage(name="calibrate", verified=None)
"""A proxy's calibration. The judge stage makes it if it is missing."""

PLANNED = (DATA, TRAIN, SAMPLE, JUDGE)
"""The stages of a plan, in the order of their inputs."""
SCHEDULED = (TRAIN, SAMPLE, JUDGE)
"""The stages that worker processes do for every cell."""
DIRECTION = Stage(name="direction", worker="em.directions.stage", device=Device.always, verified=None)
ADAPTER = Stage(name="adapter", worker="em.directions.adapter_stage", device=Device.always)
SCORES = Stage(
    name=layout.SCORED,
    worker="em.interventions.stage",
    device=Device.always,
    splits=True,
    rows=layout.SCORES,
    unit="rows",
    verified=None,
)
"""Careful rows under two models. It runs with the train stage: it needs a training, and another needs it."""
BETWEEN = (SCORES, DIRECTION, ADAPTER)
"""Stages that need other models and that models need. Directions and adapters are of models that are changed while they
are sampled, and run with the sample stage."""
VERIFY_ORDER = (SAMPLE, ADAPTER, DIRECTION, CALIBRATE, JUDGE, SCORES, TRAIN, DATA)
"""A damaged stage is made again, and needs its inputs for that; so these come after it."""
OTHER_JOBS = (
    Stage(name="prepare", worker="em.models.prepare"),
    Stage(name="finetune", worker="em.training.openai"),
    Stage(name="benchmark", worker="em.analysis.benchmark"),
    Stage(name="track", worker="em.tracking.wandb_run"),
    Stage(name="live", worker="em.tracking.live"),
)
"""Jobs of workers outside the stages of a plan. `finetune` is the train stage of a model at OpenAI."""
WORKERS = {stage.name: stage.worker for stage in (DATA, *SCHEDULED, *BETWEEN, *OTHER_JOBS)}
"""name → module that `python -m em.sweep.worker NAME` runs."""
BY_NAME = {stage.name: stage for stage in (*PLANNED, *BETWEEN, CALIBRATE)}
