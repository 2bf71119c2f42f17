"""A sweep as SLURM jobs: the same stages over the same store, split so that only what needs a GPU holds one.

    train[i] ─aftercorr─▶ sample[i] ─aftercorr─▶ judge[i] ─┐
              sample base ─aftercorr─▶ judge base ─────────┴─afterany─▶ report

Submission, job arrays, time limits and requeueing are submitit's; an array element is a `Element`, which runs one stage
of its share of the cells through run.py. `jobs.json` in the sweep folder says which job does what.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig

from em import config
from em.config import Backend, Engine, ExperimentConfig
from em.config.judge import LOCAL
from em.errors import ConfigError
from em.planning.plan import Plan, stages
from em.planning.stages import SCHEDULED
from em.run import _without_traceback
from em.runtime.preempt import PREEMPTED, Preempted
from em.store import layout, write_atomic
from em.sweep.folder import configs_of
from em.sweep.state import Share, Sweep

JOBS = layout.JOBS
CELL_STAGES = tuple(stage.name for stage in SCHEDULED)
BASE_STAGES = tuple(stage.name for stage in SCHEDULED if stage.of_base)
GPU_SETTINGS = ("gpus_per_node", "gpus_per_task", "gres", "cpus_per_gpu", "mem_per_gpu")
OVERLAYS = ("cpu", *CELL_STAGES, "report")
EXECUTOR_SETTINGS = ("submitit_folder", "max_num_timeout", "python", "cells_per_job", *OVERLAYS)
"""What does not go into a job's own parameters."""
SBATCH_NAMES = {"name": "job_name", "timeout_min": "time", "mem_gb": "mem", "tasks_per_node": "ntasks_per_node"}
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")

T = TypeVar("T")


@dataclass(frozen=True)
class Element:
    """What one SLURM job does: one stage of its share of a sweep. submitit pickles it and calls it on the node."""

    folder: str
    """The sweep's."""
    stage: str
    share: Share
    judging: int = 1
    """Jobs of this submission that may judge: each gets its part of judge.max_dollars."""

    def __call__(self) -> None:
        """Raises when the job has to show as FAILED; stopped ahead of its time limit, it goes back into the queue."""
        from em.run import run_loaded

        configs = _configs(Path(self.folder), self.stage, self.judging)
        errors = [end.error for end in requeued(lambda: run_loaded(configs, self.share))]
        failed = [e for e in errors if e]
        last = self.stage not in CELL_STAGES[:-1]
        if failed and (last or len(failed) == len(errors)):
            raise RuntimeError(f"{len(failed)} of {len(errors)} models failed at {self.stage}: {failed[0]}")

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue: the same again; the store knows what is done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def requeued(work: Callable[[], T]) -> T:
    """Do work on a node, under submitit. When it raises Preempted it has saved: only then does the job go back.

    submitit's own handler requeues at once from inside the signal, and SLURM kills the job KillWait seconds later.
    """
    requeue: Any = signal.getsignal(signal.SIGUSR2)
    try:
        return work()
    except Preempted as stop:
        if stop.number == signal.SIGUSR2 or (stop.number == signal.SIGTERM and _preempted()):
            requeue(signal.SIGUSR2, None)
        sys.exit(PREEMPTED)  # scancel


def _preempted() -> bool:
    """Whether SLURM takes the node away. It requeues a job that it has to kill; one that ends by itself it does not."""
    done = subprocess.run(
        ["scontrol", "show", "job", "--oneliner", os.environ["SLURM_JOB_ID"]],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"\bPreemptTime=(\S+)", done.stdout)
    return found is not None and found[1] not in ("None", "N/A")


def _configs(folder: Path, stage: str, judging: int) -> list[ExperimentConfig]:
    """The cells of a sweep as it was submitted, told to run one stage with its part of the judge's cap."""
    cells = [replace(c, launch=replace(c.launch, stages=[stage])) for c in configs_of(folder)]
    for cell in cells:
        if cell.judge.max_dollars is not None:
            cell.judge.max_dollars /= judging
    return cells


@dataclass(frozen=True)
class SlurmJob:
    """One line of jobs.json."""

    id: str
    stage: str
    labels: list[str]
    log: str


@dataclass(frozen=True)
class JobState:
    state: str
    """SLURM's own word, e.g. PENDING, RUNNING, FAILED; UNKNOWN when SLURM has forgotten the job."""
    reason: str = ""
    """SLURM's reason or exit code, e.g. DependencyNeverSatisfied, 1:0."""


def shares(plan: Plan, cells_per_job: int) -> list[tuple[str, ...]]:
    """Cells by job: one base model each, `cells_per_job` or, where one training run has more cells, all of its own.

    Two jobs with one training run would wait for each other while both hold a GPU.
    """
    bases: dict[str, dict[str, list[str]]] = {}
    for cell in plan.cells:
        batch = plan.jobs["train", str(cell.train_key)].batch
        bases.setdefault(batch, {}).setdefault(str(cell.train_key), []).append(cell.id)
    out = []
    for runs in bases.values():
        share: list[str] = []
        for cells in runs.values():
            if share and len(share) + len(cells) > cells_per_job:
                out.append(tuple(share))
                share = []
            share += cells
        out.append(tuple(share))
    return out


def submit(sweep: Sweep, settings: dict[str, Any]) -> list[SlurmJob]:
    """Submit what the sweep has left to do (of launch.stages) and return at once. `settings` are the launcher's.

    Raises ConfigError when SLURM refuses a job (those submitted before it are cancelled), or when the sweep's jobs of
    an earlier submission are still in the queue.
    """
    refuse_twice(sweep.folder)
    cells, bases = shares(sweep.plan, settings["cells_per_job"]), [(b.id,) for b in sweep.plan.bases]
    submission = _Submission(sweep, settings)
    submission.judging = max(1, sum(map(bool, map(submission.missing, [*cells, *bases]))))
    try:
        last = [*submission.chain("", CELL_STAGES, cells), *submission.chain("base-", BASE_STAGES, bases)]
        if "report" in sweep.stages:
            submission.report(last)
    except BaseException:
        submission.cancel()
        raise
    record = {
        "format": 1,
        "submitted": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "command": shlex.join(["python", "-m", "em.run", *sys.argv[1:]]),
        "jobs": [asdict(j) for j in submission.jobs],
    }
    write_atomic(sweep.folder / JOBS, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return submission.jobs


class _Submission:
    def __init__(self, sweep: Sweep, settings: dict[str, Any]) -> None:
        self.sweep, self.settings = sweep, settings
        self.jobs: list[SlurmJob] = []
        self.judging = 1
        self.labels = {s.id: s.label for s in (*sweep.plan.cells, *sweep.plan.bases)}
        self.with_gpu = {stage for c in sweep.plan.cells for stage in _on_a_gpu(c.config)}

    def chain(self, name: str, order: Sequence[str], every: Sequence[tuple[str, ...]]) -> list[str]:
        """One array a stage over the shares that have something left; returns the ids of the last one."""
        missing = [self.missing(subjects) for subjects in every]
        left = [s for s, m in zip(every, missing, strict=True) if m]
        needed = set().union(*missing)
        first = next((i for i, stage in enumerate(order) if stage in needed), len(order))
        previous = ""
        for stage in [s for s in order[first:] if s in self.sweep.stages]:
            elements = [
                Element(str(self.sweep.folder), stage, Share(f"{name}{stage}-{i}", subjects), self.judging)
                for i, subjects in enumerate(left)
            ]
            previous = self._submit(stage, elements, f"aftercorr:{previous}" if previous else "")
        return [previous] if previous else []

    def report(self, after: Sequence[str]) -> None:
        subjects = tuple(self.labels)
        element = Element(str(self.sweep.folder), "report", Share("report", subjects))
        self._submit("report", [element], "afterany:" + ":".join(after) if after else "")

    def missing(self, subjects: tuple[str, ...]) -> set[str]:
        """Stages of which the store lacks something for these models; a dataset belongs to its training."""
        return {
            "train" if stage == "data" else stage
            for s in self.sweep.plan.subjects
            if s.id in subjects or (s.step is not None and s.cell in subjects)
            for stage, keys in stages(self.sweep.plan, s).items()
            if not all(self.sweep.store.has(stage, key) for key in keys)
        }

    def _submit(self, stage: str, elements: list[Element], dependency: str) -> str:
        """Returns the id that later jobs can depend on."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        folder = Path(self.settings["submitit_folder"] or self.sweep.folder / "logs" / "slurm")
        try:
            executor = submitit.SlurmExecutor(folder, self.settings["max_num_timeout"], python=self.settings["python"])
            executor.update_parameters(**self._parameters(stage, dependency))
            jobs = executor.submit_array(elements)
        except (FailedJobError, FailedSubmissionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"SLURM refused the {stage} jobs ({' '.join(str(error).split())[-300:]}): see hydra.launcher; "
                f"where an array is too long, a larger cells_per_job makes it shorter"
            ) from error
        for job, element in zip(jobs, elements, strict=True):
            labels = [self.labels[s] for s in element.share.subjects]
            self.jobs.append(SlurmJob(job.job_id, stage, labels if stage != "report" else [], str(job.paths.stdout)))
        return jobs[0].job_id.split("_")[0]

    def _parameters(self, stage: str, dependency: str) -> dict[str, Any]:
        """sbatch's parameters for a stage's jobs: the launcher's settings under those for this stage."""
        merged = {k: v for k, v in self.settings.items() if k not in EXECUTOR_SETTINGS}
        layers = [stage]
        if stage not in self.with_gpu:
            merged = {k: v for k, v in merged.items() if k not in GPU_SETTINGS}
            layers = ["cpu", stage]
        for layer in layers:
            unknown = sorted(set(self.settings[layer]) - set(self.settings) | set(self.settings[layer]) & set(OVERLAYS))
            if unknown:
                raise ConfigError(f"hydra.launcher.{layer}.{unknown[0]}: the launcher has no such setting")
            merged |= self.settings[layer]
        merged["name"] = f"{merged['name'] or self.sweep.folder.name}-{stage}"
        merged["srun_args"] = [*_step(merged), *merged["srun_args"]]
        # a dependency that can never be met ends the job; a cluster may not requeue by default
        more = {"kill-on-invalid-dep": "yes", "requeue": True, **merged["additional_parameters"]}
        merged |= {"additional_parameters": more, "dependency": dependency or None, "wckey": None}
        return {SBATCH_NAMES.get(k, k): f"{v}GB" if k == "mem_gb" else v for k, v in merged.items() if v is not None}

    def cancel(self) -> None:
        ids = sorted({j.id.split("_")[0] for j in self.jobs})
        if ids:
            subprocess.run(["scancel", *ids], check=False)


def _on_a_gpu(config: ExperimentConfig) -> set[str]:
    """Stages of a cell that compute on this cluster, and not behind an API."""
    sampled = config.sample.engine in (Engine.vllm, Engine.hf) or (
        config.sample.engine == Engine.vllm_server and not config.sample.base_url
    )
    found = {"train": config.model.backend != Backend.openai, "sample": sampled, "judge": config.judge.kind in LOCAL}
    return {stage for stage, here in found.items() if here}


def _step(merged: dict[str, Any]) -> list[str]:
    """srun's options for the one process that leads a job: since 22.05 srun does not take over cpus-per-task."""
    step = ["--nodes=1", "--ntasks=1"] if (merged["nodes"] or 1) > 1 else []
    if merged["cpus_per_task"]:
        step.append(f"--cpus-per-task={merged['cpus_per_task']}")
    return step


def refuse_twice(folder: Path) -> None:
    """Raise ConfigError while jobs of a sweep are in the queue."""
    active = _active(folder)
    if active:
        first = next(iter(active))
        ids = " ".join(sorted({i.split("_")[0] for i in active}))
        raise ConfigError(
            f"this sweep has {len(active)} jobs in the queue already (job {first} is {active[first].state}): "
            f"let them end, or `scancel {ids}`"
        )


def command(folder: Path) -> str:
    """The command that submitted a sweep; after its jobs have ended it submits what is missing."""
    return json.loads((folder / JOBS).read_text(encoding="utf-8"))["command"]


def read_jobs(path: Path) -> list[SlurmJob]:
    """The jobs of the last submission. Raises ConfigError when the file is not ours."""
    try:
        return [SlurmJob(**row) for row in json.loads(path.read_text(encoding="utf-8"))["jobs"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} is not a list of submitted jobs ({error})") from error


def job_states(path: Path) -> dict[str, JobState]:
    """Job id → state, of every job in a jobs.json: squeue's word where it still knows the job, else sacct's."""
    jobs = read_jobs(path)
    ids = ",".join(sorted({j.id.split("_")[0] for j in jobs}))
    queue = _ask(["squeue", "--noheader", "--array", "--states=all", f"--jobs={ids}", "--format=%i|%T|%r"])
    if any(j.id not in queue for j in jobs):
        columns = "--format=JobID,State,ExitCode"
        queue = _ask(["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={ids}", columns]) | queue
    return {j.id: queue.get(j.id, JobState("UNKNOWN")) for j in jobs}


def _ask(command: list[str]) -> dict[str, JobState]:
    """Lines of "id|state|reason". Nothing where the program is missing, knows none of the jobs or keeps no accounts."""
    if shutil.which(command[0]) is None:
        return {}
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = {}
    for line in done.stdout.splitlines():
        job, state, reason = line.split("|")
        found[job] = JobState(state.split()[0], "" if reason in ("None", "0:0") else reason)  # "CANCELLED by 0"
    return found


def submitted(folder: Path, jobs: Sequence[SlurmJob]) -> list[str]:
    """What the person who submitted reads."""
    arrays: dict[str, list[SlurmJob]] = {}
    for job in jobs:
        arrays.setdefault(job.id.split("_")[0], []).append(job)
    out = [f"{job_id:>8}  {of[0].stage:6}  {len(of)} jobs" for job_id, of in arrays.items()]
    return [*out, f"em status {folder}", f"scancel {' '.join(arrays)}"]


def lines(folder: Path) -> list[str]:
    """What `em status` says about a submitted sweep: one line a job that is not just done, or an array that waits."""
    states, jobs = job_states(folder / JOBS), read_jobs(folder / JOBS)
    counts: dict[str, int] = {}
    for s in states.values():
        counts[s.state] = counts.get(s.state, 0) + 1
    out = ["slurm: " + ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))]
    waiting: dict[tuple[str, str, str], int] = {}
    for job in jobs:
        s = states[job.id]
        why = f" ({s.reason})" if s.reason else ""
        if s.state == "PENDING":
            key = job.id.split("_")[0], job.stage, f"{s.state}{why}"
            waiting[key] = waiting.get(key, 0) + 1
        elif s.state != "COMPLETED":
            out.append(f"  {job.id:>10} {job.stage:6} {s.state}{why}  {', '.join(job.labels)}  {job.log}")
    return out + [f"  {array:>10} {stage:6} {said}  {n} jobs" for (array, stage, said), n in waiting.items()]


def in_queue(folder: Path) -> bool:
    """Whether a job of a submitted sweep has not ended: then it is not submitted again."""
    return bool(_active(folder))


def _active(folder: Path) -> dict[str, JobState]:
    states = job_states(folder / JOBS) if (folder / JOBS).exists() else {}
    return {i: s for i, s in states.items() if s.state not in (*ENDED, "UNKNOWN")}


def submit_cells(composed: Sequence[DictConfig], settings: dict[str, Any]) -> None:
    """Hand a sweep to SLURM and return; `settings` are hydra.launcher's (em_slurm)."""
    from em.sweep import sweep

    with _without_traceback():
        planned = sweep.planned([config.load(c) for c in composed])
        sweep.check_budget(planned)
        jobs = submit(planned, settings)
    for line in submitted(planned.folder, jobs):
        sys.stdout.write(line + "\n")
