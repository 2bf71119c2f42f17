"""Run a sweep as SLURM job arrays: one stage per job, over the same store, so that only GPU stages hold a GPU.

    train[i] ─aftercorr─▶ sample[i] ─aftercorr─▶ judge[i] ─┐
              sample base ─aftercorr─▶ judge base ─────────┴─afterany─▶ report

submitit submits, sets time limits and requeues. An array element is an `Element`: it runs one stage for its share of
the cells. `jobs.json` in the sweep folder lists the jobs.
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

from em.config import Backend, Engine, ExperimentConfig
from em.config.judge import LOCAL
from em.errors import ConfigError
from em.planning import recipe
from em.planning.jobs import in_turns
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
"""Launcher settings that are not parameters of a job."""
SBATCH_NAMES = {"name": "job_name", "timeout_min": "time", "mem_gb": "mem", "tasks_per_node": "ntasks_per_node"}
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")

T = TypeVar("T")


@dataclass(frozen=True)
class Element:
    """The work of one SLURM job: one stage for its share of a sweep. submitit pickles it and calls it on the node."""

    folder: str
    """Folder of the sweep."""
    stage: str
    share: Share
    judging: int = 1
    """Number of jobs of this submission that may judge: each gets an equal part of judge.max_dollars."""

    def __call__(self) -> None:
        """Run the stage. Raises RuntimeError if SLURM should show the job as FAILED."""
        from em.run import run_loaded

        configs = _configs(Path(self.folder), self.stage, self.judging)
        errors = [end.error for end in requeued(lambda: run_loaded(configs, self.share))]
        failed = [e for e in errors if e]
        last = self.stage not in CELL_STAGES[:-1]
        if failed and (last or len(failed) == len(errors)):
            raise RuntimeError(f"{len(failed)} of {len(errors)} models failed at {self.stage}: {failed[0]}")

    def checkpoint(self) -> Any:
        """Return what submitit requeues: this same element, since the store knows which stages are done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def requeued(work: Callable[[], T]) -> T:
    """Do work on a node, under submitit. Requeue the job only after the work has raised Preempted, that is, has saved.

    submitit's own handler requeues inside the signal handler, and SLURM kills the job KillWait seconds later.
    """
    requeue: Any = signal.getsignal(signal.SIGUSR2)
    try:
        return work()
    except Preempted as stop:
        if stop.number == signal.SIGUSR2 or (stop.number == signal.SIGTERM and _preempted()):
            requeue(signal.SIGUSR2, None)
        sys.exit(PREEMPTED)  # after scancel, the job is not requeued


def _preempted() -> bool:
    """Return whether SLURM preempts this job. It requeues a job that it kills, but not one that exits before."""
    done = subprocess.run(
        ["scontrol", "show", "job", "--oneliner", os.environ["SLURM_JOB_ID"]],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"\bPreemptTime=(\S+)", done.stdout)
    return found is not None and found[1] not in ("None", "N/A")


def _configs(folder: Path, stage: str, judging: int) -> list[ExperimentConfig]:
    """Return the configs of a submitted sweep, set to one stage and to this job's part of judge.max_dollars."""
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
    """SLURM's name of the state, e.g. PENDING, RUNNING, FAILED; UNKNOWN if SLURM no longer lists the job."""
    reason: str = ""
    """SLURM's reason or exit code, e.g. DependencyNeverSatisfied, 1:0."""


def shares(plan: Plan, cells_per_job: int) -> list[tuple[str, ...]]:
    """Return the ids of the cells of each job: at most `cells_per_job`, all with the same base model.

    Cells of one training run, or behind one, stay in one job, even if they are more: two jobs would wait for each
    other's training while both hold a GPU.
    """
    bases: dict[str, dict[str, list[str]]] = {}
    for cell in plan.cells:
        root = next((key for stage, key in cell.requires if stage == "train"), cell.train_key)
        first = ("train", root) if root else ("sample", cell.parts[0].samples[0])
        bases.setdefault(plan.jobs[first].batch, {}).setdefault(root or cell.id, []).append(cell.id)
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
    """Submit the unfinished stages (of launch.stages) and return at once. `settings`: those of hydra.launcher.

    Raises ConfigError if SLURM refuses a job (jobs submitted before it are cancelled), or if jobs of an earlier
    submission of this sweep are still in the queue.
    """
    refuse_twice(sweep.folder)
    if in_turns(sweep.plan):
        raise ConfigError(
            "a sweep with directions, changed adapters, rows chosen by scores or intervention=early_stop asks some "
            "models before others, which arrays of one stage cannot do: run it in one job, without "
            "hydra/launcher=slurm"
        )
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
        """Submit one array per stage over the shares with unfinished stages. Return the last array's id, in a list."""
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
        """Return the stages with missing results for these models. A missing dataset counts as missing training."""
        return {
            "train" if stage == "data" else stage
            for s in self.sweep.plan.subjects
            if s.id in subjects or (s.step is not None and s.cell in subjects)
            for stage, keys in stages(self.sweep.plan, s).items()
            if not all(self.sweep.store.has(stage, key) for key in keys)
        }

    def _submit(self, stage: str, elements: list[Element], dependency: str) -> str:
        """Submit an array. Return its id, for the dependencies of later jobs."""
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
                f"if an array is too long, a larger cells_per_job makes it shorter"
            ) from error
        for job, element in zip(jobs, elements, strict=True):
            labels = [self.labels[s] for s in element.share.subjects]
            self.jobs.append(SlurmJob(job.job_id, stage, labels if stage != "report" else [], str(job.paths.stdout)))
        return jobs[0].job_id.split("_")[0]

    def _parameters(self, stage: str, dependency: str) -> dict[str, Any]:
        """Return sbatch's parameters for a stage's jobs. The stage's own settings replace the general ones."""
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
        # without these, a job whose dependency cannot be met waits for ever, and some clusters do not requeue
        more = {"kill-on-invalid-dep": "yes", "requeue": True, **merged["additional_parameters"]}
        merged |= {"additional_parameters": more, "dependency": dependency or None, "wckey": None}
        return {SBATCH_NAMES.get(k, k): f"{v}GB" if k == "mem_gb" else v for k, v in merged.items() if v is not None}

    def cancel(self) -> None:
        ids = sorted({j.id.split("_")[0] for j in self.jobs})
        if ids:
            subprocess.run(["scancel", *ids], check=False)


def _on_a_gpu(config: ExperimentConfig) -> set[str]:
    """Return the stages of a cell that compute on this cluster, not behind an API."""
    sampled = config.sample.engine in (Engine.vllm, Engine.hf) or (
        config.sample.engine == Engine.vllm_server and not config.sample.base_url
    )
    found = {"train": config.model.backend != Backend.openai, "sample": sampled, "judge": config.judge.kind in LOCAL}
    return {stage for stage, here in found.items() if here}


def _step(merged: dict[str, Any]) -> list[str]:
    """Return srun's options for a job's leading process. Since 22.05, srun ignores the job's cpus-per-task."""
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
    """Return the command that submitted a sweep. After all jobs have ended, it submits the missing stages."""
    return json.loads((folder / JOBS).read_text(encoding="utf-8"))["command"]


def read_jobs(path: Path) -> list[SlurmJob]:
    """Return the jobs of the last submission. Raises ConfigError if the file cannot be read as jobs.json."""
    try:
        return [SlurmJob(**row) for row in json.loads(path.read_text(encoding="utf-8"))["jobs"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} is not a list of submitted jobs ({error})") from error


def job_states(path: Path) -> dict[str, JobState]:
    """Return job id → state for every job in a jobs.json: from squeue if it lists the job, else from sacct."""
    jobs = read_jobs(path)
    ids = ",".join(sorted({j.id.split("_")[0] for j in jobs}))
    queue = _query(["squeue", "--noheader", "--array", "--states=all", f"--jobs={ids}", "--format=%i|%T|%r"])
    if any(j.id not in queue for j in jobs):
        columns = "--format=JobID,State,ExitCode"
        queue = _query(["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={ids}", columns]) | queue
    return {j.id: queue.get(j.id, JobState("UNKNOWN")) for j in jobs}


def _query(command: list[str]) -> dict[str, JobState]:
    """Run squeue or sacct and return job id → state. Empty if the program is not installed or lists no job."""
    if shutil.which(command[0]) is None:
        return {}
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = {}
    for line in done.stdout.splitlines():
        job, state, reason = line.split("|")
        found[job] = JobState(state.split()[0], "" if reason in ("None", "0:0") else reason)  # "CANCELLED by 0"
    return found


def submitted(folder: Path, jobs: Sequence[SlurmJob]) -> list[str]:
    """Return the lines that the terminal shows after a submission."""
    arrays: dict[str, list[SlurmJob]] = {}
    for job in jobs:
        arrays.setdefault(job.id.split("_")[0], []).append(job)
    out = [f"{job_id:>8}  {of[0].stage:6}  {len(of)} jobs" for job_id, of in arrays.items()]
    return [*out, f"em status {folder}", f"scancel {' '.join(arrays)}"]


def lines(folder: Path) -> list[str]:
    """Return the lines of `em status` on a submitted sweep: counts, then the waiting arrays and unfinished jobs."""
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
    """Return whether a job of a submitted sweep has not ended yet."""
    return bool(_active(folder))


def _active(folder: Path) -> dict[str, JobState]:
    states = job_states(folder / JOBS) if (folder / JOBS).exists() else {}
    return {i: s for i, s in states.items() if s.state not in (*ENDED, "UNKNOWN")}


def submit_cells(composed: Sequence[DictConfig], settings: dict[str, Any]) -> None:
    """Submit a sweep to SLURM and return. `settings`: those of hydra.launcher (em_slurm)."""
    from em.sweep import sweep

    with _without_traceback():
        planned = sweep.planned([recipe.load(c) for c in composed])
        sweep.check_budget(planned)
        jobs = submit(planned, settings)
    for line in submitted(planned.folder, jobs):
        sys.stdout.write(line + "\n")
