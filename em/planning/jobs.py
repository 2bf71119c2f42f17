"""What a plan is made of: Job (one stage of one key), Subject (one model of the table) and Plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from em.config import ExperimentConfig
from em.config.judge import LOCAL
from em.data.job import DataJob
from em.directions.job import AdapterJob, DirectionJob
from em.interventions.job import ScoreJob
from em.judging.job import JudgeJob
from em.planning.stages import BETWEEN, BY_NAME, Device
from em.records import Question
from em.sampling.job import SampleJob
from em.training.job import TrainJob

Spec = DataJob | TrainJob | SampleJob | JudgeJob | DirectionJob | AdapterJob | ScoreJob
S = TypeVar("S", covariant=True)
K = TypeVar("K")


@dataclass(frozen=True)
class Job(Generic[S]):
    """One stage of the union over all cells; `spec` is what its worker is given."""

    stage: str
    key: str
    label: str
    batch: str
    """Jobs of one batch share a worker process: one base model, one engine, one judge."""
    spec: S
    needs: tuple[tuple[str, str], ...] = ()
    """(stage, key) of the jobs whose output it reads."""
    follows: bool = False
    """The job reads its input while that is being written: a judge behind an API works beside the sampler."""


def on_device(job: Job[object]) -> bool:
    """Return whether the worker of a job holds devices of this machine."""
    need, spec = BY_NAME[job.stage].device, job.spec
    elsewhere = isinstance(spec, SampleJob) and spec.served_elsewhere
    if isinstance(spec, TrainJob):  # an early stop copies files
        elsewhere = spec.at_openai or spec.stop is not None
    local = isinstance(spec, JudgeJob) and spec.judge.kind in LOCAL
    return not elsewhere and (need == Device.always or (need == Device.local_judge and local))


@dataclass(frozen=True)
class Part:
    """One question set asked of one model, and the keys of its rows."""

    set_name: str
    samples: tuple[str, ...]
    judgements: tuple[str, ...]
    n: int
    """Rows with sample_index below this count."""
    questions: tuple[Question, ...]
    calibration: str | None
    """Key of the local judge's calibration; None for other judges."""


@dataclass(frozen=True)
class Subject:
    """One model of the sweep's table: the untouched base, one cell's adapter, or an untouched cell (dataset=none)."""

    id: str
    label: str
    config: ExperimentConfig
    train_key: str | None
    parts: tuple[Part, ...]
    step: int | None = None
    """Training step of a kept checkpoint; None: the end of training."""
    cell: str | None = None
    """Id of its cell; None: the untouched model beside the cells."""
    choices: str | None = None
    """Sample key of its options' log-probabilities (questions.choices); None: not asked for."""
    base: str | None = None
    """Id of the untouched model it is compared with: same base model, questions, judge and thresholds. None: it is
    untouched itself."""
    requires: tuple[tuple[str, str], ...] = ()
    """(stage, key) of what else must be made for it: directions, adapters, and the models that they are made of."""


@dataclass
class Plan:
    cells: list[Subject] = field(default_factory=list)
    bases: list[Subject] = field(default_factory=list)
    """One untouched model per base model and question setting of the sweep."""
    checkpoints: list[Subject] = field(default_factory=list)
    """Kept steps of the cells' training, each asked the same questions as its cell (sample.checkpoints)."""
    jobs: dict[tuple[str, str], Job[Spec]] = field(default_factory=dict)

    @property
    def subjects(self) -> list[Subject]:
        """Every model of the sweep."""
        return [*self.bases, *self.cells, *self.checkpoints]

    def stage(self, name: str) -> list[Job[Spec]]:
        return [job for job in self.jobs.values() if job.stage == name]

    def specs(self, kind: type[K]) -> list[K]:
        """Return the specs of one stage, e.g. of JudgeJob."""
        return [job.spec for job in self.jobs.values() if isinstance(job.spec, kind)]

    def data(self, key: str) -> DataJob:
        return self._spec(DataJob, "data", key)

    def train(self, key: str) -> TrainJob:
        return self._spec(TrainJob, "train", key)

    def sample(self, key: str) -> SampleJob:
        return self._spec(SampleJob, "sample", key)

    def _spec(self, kind: type[K], stage: str, key: str) -> K:
        found = self.jobs[stage, key].spec
        assert isinstance(found, kind)
        return found


def in_turns(plan: Plan) -> bool:
    """Return whether some models wait for others: directions, changed adapters, early stops, rows chosen by scores."""
    between = {stage.name for stage in BETWEEN}
    jobs = plan.jobs.values()
    return any(j.stage in between or (isinstance(j.spec, TrainJob) and j.spec.stop is not None) for j in jobs)


def stages(plan: Plan, subject: Subject) -> dict[str, list[str]]:
    """Return stage → keys of everything that a model's numbers come from."""
    found: dict[str, list[str]] = {}
    if subject.train_key:
        found = {"data": [plan.train(subject.train_key).data_key], "train": [subject.train_key]}
    found["sample"] = [k for p in subject.parts for k in p.samples] + ([subject.choices] if subject.choices else [])
    found["judge"] = [k for p in subject.parts for k in p.judgements]
    for stage, key in subject.requires:
        keys = found.setdefault(stage, [])
        keys += [key] if key not in keys else []
    return found
