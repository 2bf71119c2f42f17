"""Decide which worker runs when: a batch of jobs starts as soon as its inputs are there and a device is free.

A worker is a process over the jobs of one batch (sweep/worker.py), so a base model is loaded, or an engine started,
once per batch and device. A judge behind an API holds no device and runs beside the sampler: it follows the growing
file, and its standard input reports failed sample jobs.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from em.planning import stages
from em.planning.plan import Job
from em.runtime import machine
from em.runtime.preempt import PREEMPTED, Preempted
from em.runtime.terminal import Bar
from em.sampling.job import SampleJob
from em.store import content_key, job_file
from em.sweep.devices import devices, devices_held, environment, on_cpu
from em.training import launch
from em.training.job import TrainJob

if TYPE_CHECKING:
    from em.sweep.state import Sweep


@dataclass
class Batch:
    """Jobs that share a worker."""

    stage: str
    jobs: list[Job[object]]
    devices: int
    """Number of devices held: processes of a run, or tensor-parallel ranks; 0 for jobs without a GPU."""
    follows: bool
    """Whether it may start while the jobs it needs are still running."""


@dataclass(kw_only=True)
class Worker:
    """A running process and the batch it works on."""

    batch: Batch
    process: subprocess.Popen[bytes]
    events: IO[bytes]
    log: Path
    devices: list[str]
    waiting: dict[str, Job[object]]
    bar: Bar
    rest: bytes = b""
    """The beginning of a line that has not arrived whole."""
    lost: list[str] = field(default_factory=list)
    """Its GPUs that broke down. It was killed; its jobs go to other devices."""
    cause: str = ""
    """The error message that came with the loss."""


@dataclass
class Scheduler:
    """Runs batches until none is left: starts workers, reads their events, records what they did."""

    sweep: Sweep
    batches: list[Batch]
    free: list[str]
    """Devices that no worker holds."""
    workers: list[Worker] = field(default_factory=list)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    timeout_s: float | None = None
    """Seconds until running workers are ended; their jobs fail with an error message."""
    moved: set[tuple[str, str]] = field(default_factory=set)
    """(stage, key) of jobs that were moved off a lost GPU. Each is moved once."""

    def __post_init__(self) -> None:
        self.total = len(self.free)

    def run(self) -> None:
        end = math.inf if self.timeout_s is None else time.monotonic() + self.timeout_s
        try:
            while self.batches or self.workers:
                self._start_what_can()
                if not self.workers:
                    self._fail_the_rest()
                    break
                for ready, _ in self.selector.select(None if end == math.inf else max(0.0, end - time.monotonic())):
                    self._read(ready.data)
                if time.monotonic() > end:
                    self._time_out()
        except BaseException as stop:
            _stop([w.process for w in self.workers], patient=isinstance(stop, Preempted))
            raise
        finally:
            for worker in self.workers:  # a stop: the terminal gets its cursor back
                worker.bar.close()
            self.selector.close()

    def _start_what_can(self) -> None:
        for batch in list(self.batches):
            self._drop_blocked(batch)
            if not batch.jobs:
                self.batches.remove(batch)
            elif self._ready(batch) and len(self.free) >= batch.devices:
                self.batches.remove(batch)
                self._start(batch)

    def _drop_blocked(self, batch: Batch) -> None:
        """Fail jobs whose input failed, with the same message and without a worker.

        A job that would wait for an input that nobody makes (launch.stages leaves it out, or em rejudge) fails too.
        """
        for job in list(batch.jobs):
            cause = next((self.sweep.failed[n] for n in job.needs if n in self.sweep.failed), "")
            if cause:
                batch.jobs.remove(job)
                self._report_failed(job, cause)
            elif batch.follows and (lost := self._never(job)):
                batch.jobs.remove(job)
                self._fail_for(job, lost)

    def _never(self, job: Job[object]) -> tuple[str, str] | None:
        """Return an input that is not there and that no job makes, else None."""
        made = {(b.stage, j.key) for b in self.batches for j in b.jobs}
        made |= {(w.batch.stage, key) for w in self.workers for key in w.waiting}
        return next((n for n in job.needs if n not in made and not self.sweep.store.has(*n)), None)

    def _fail_for(self, job: Job[object], missing: tuple[str, str]) -> None:
        self.sweep.fail(job, "its input {} {} is not there and no job makes it".format(*missing))

    def _ready(self, batch: Batch) -> bool:
        running = {(w.batch.stage, key) for w in self.workers for key in w.waiting}
        needs = {n for job in batch.jobs for n in job.needs}
        there = {n for n in needs if self.sweep.store.has(*n)}
        return there == needs or (batch.follows and bool(there | (needs & running)))

    def _time_out(self) -> None:
        for worker in list(self.workers):
            worker.process.kill()
            for key, job in list(worker.waiting.items()):
                del worker.waiting[key]
                self.sweep.fail(job, f"not done within {self.timeout_s:g} s, stopped; its log: {worker.log}")
            self._close(worker)

    def _fail_the_rest(self) -> None:
        """Fail what is left: nothing runs and nothing can start, because an input is missing or GPUs were lost."""
        for batch in self.batches:
            for job in batch.jobs:
                missing = next((n for n in job.needs if not self.sweep.store.has(*n)), None)
                if missing and missing in self.sweep.failed:
                    self._report_failed(job, self.sweep.failed[missing])
                elif missing:
                    self._fail_for(job, missing)
                else:
                    self.sweep.fail(job, f"it needs {batch.devices} GPU(s) and {len(self.free)} are left; see above")

    def _start(self, batch: Batch) -> None:
        """Start a worker process over the batch. Its output goes to a log, its events to a pipe."""
        name = f"{batch.stage}-{content_key(keys=[j.key for j in batch.jobs])[:8]}"
        file, log = self.sweep.folder / "logs" / f"{name}.json", self.sweep.folder / "logs" / f"{name}.log"
        job_file.write(file, self.sweep.store.root.parent, [j.spec for j in batch.jobs])
        command = [sys.executable, "-m", "em.sweep.worker", batch.stage, str(file)]
        if runs := [j.spec for j in batch.jobs if isinstance(j.spec, TrainJob)]:
            command = launch.command(file, runs)  # may be several processes
        held, self.free = self.free[: batch.devices], self.free[batch.devices :]
        read, write = os.pipe()
        with log.open("a") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.PIPE if batch.follows else subprocess.DEVNULL,
                pass_fds=[write],
                env=environment(write, held, max(1, batch.devices) / max(1, self.total), batch.stage),
            )
        os.close(write)
        worker = Worker(
            batch=batch,
            process=process,
            events=os.fdopen(read, "rb", buffering=0),
            log=log,
            devices=held,
            waiting={j.key: j for j in batch.jobs},
            bar=Bar(),
        )
        self.workers.append(worker)
        self.selector.register(worker.events, selectors.EVENT_READ, worker)

    def _read(self, worker: Worker) -> None:
        data = os.read(worker.events.fileno(), 1 << 16)
        *lines, worker.rest = (worker.rest + data).split(b"\n")
        for event in map(json.loads, lines):
            if event["event"] != "failed" or not self._loses_device(worker, event["error"]):
                self._handle(worker, event)
        if not data:
            self._close(worker)

    def _handle(self, worker: Worker, event: dict[str, Any]) -> None:
        """Handle one event of a worker: counters, warnings, bars; started, done and failed jobs."""
        kind, job = event["event"], worker.waiting.get(event.get("job", ""))
        if kind == "count":
            self.sweep.counters[event["name"]] += event["by"]
        elif kind == "warning":
            self.sweep.warn(event["text"])
        elif kind == "progress":
            total = len(worker.batch.jobs)
            of_job = f"{total - len(worker.waiting) + 1}/{total} {job.label}" if job else event["job"]
            worker.bar.show(f"{worker.batch.stage} {of_job}", event["done"], event["total"], event["note"])
        elif job and kind == "started":
            self.sweep.record_job("started", job, device=",".join(worker.devices) or None, log=str(worker.log))
        elif job:
            self._end_job(worker, job, event)

    def _end_job(self, worker: Worker, job: Job[object], event: dict[str, Any]) -> None:
        if worker.bar.title.endswith(job.label):  # a bar over several jobs goes on
            worker.bar.close()
        del worker.waiting[job.key]
        if event["event"] == "failed":
            self.sweep.fail(job, event["error"], str(worker.log))
            self._report_failed(job, event["error"])
        else:
            self.sweep.record_job("done", job)
            self.sweep.counters["stages_run"] += job.stage in stages.BY_NAME

    def _close(self, worker: Worker) -> None:
        """Reap a worker whose pipe has ended, fail the jobs it left undone, and free its devices."""
        self.selector.unregister(worker.events)
        self.workers.remove(worker)
        worker.bar.close()
        worker.events.close()
        if worker.process.stdin:
            worker.process.stdin.close()
        code = worker.process.wait()
        if code == PREEMPTED:
            raise Preempted
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        error = f"the {worker.batch.stage} worker ended with {how} before this was done; its log: {worker.log}"
        if worker.waiting and self._loses_device(worker, ""):
            self._move(worker)
            error = f"GPU {', '.join(worker.lost)} is lost, and no other is left or was tried before: {worker.cause}"
        for job in worker.waiting.values():
            self.sweep.fail(job, error, str(worker.log))
            self._report_failed(job, error)
        self.free += [name for name in worker.devices if name not in worker.lost]

    def _loses_device(self, worker: Worker, error: str) -> bool:
        """Whether a failure is the end of a GPU. Then kill its worker: a process never gets a lost GPU back."""
        if not worker.lost and not on_cpu(worker.devices):
            worker.lost = [name for name in worker.devices if machine.is_lost(name, error)]
            if worker.lost:
                worker.cause = error or f"its worker died and nvidia-smi does not find it; the log: {worker.log}"
                self.sweep.warn(f"GPU {', '.join(worker.lost)} is lost and gets no more work: {worker.cause}")
                worker.process.kill()
        return bool(worker.lost)

    def _move(self, worker: Worker) -> None:
        """Queue the jobs of a lost GPU again, each once and only if enough other devices are left."""
        alive = len(self.free) + len(worker.devices) - len(worker.lost) + sum(len(w.devices) for w in self.workers)
        again = [job for job in worker.waiting.values() if (job.stage, job.key) not in self.moved]
        if again and alive >= worker.batch.devices:
            self.batches.append(replace(worker.batch, jobs=again))
            self.moved |= {(job.stage, job.key) for job in again}
            worker.waiting = {key: job for key, job in worker.waiting.items() if job not in again}
            self.sweep.warn(f"{len(again)} {worker.batch.stage} job(s) of GPU {', '.join(worker.lost)} go to another")

    def _report_failed(self, job: Job[object], error: str) -> None:
        """Remember a failed job, and report it to the workers that follow it."""
        self.sweep.failed.setdefault((job.stage, job.key), error)
        line = json.dumps({"event": "failed", "stage": job.stage, "key": job.key, "error": error}) + "\n"
        for worker in self.workers:
            if any((job.stage, job.key) in j.needs for j in worker.waiting.values()) and worker.process.stdin:
                with contextlib.suppress(BrokenPipeError):  # it has ended: its jobs fail with an error of their own
                    worker.process.stdin.write(line.encode())
                    worker.process.stdin.flush()


def run_stages(sweep: Sweep) -> None:
    """Run every job of the plan that the store does not have, but for datasets that need no other stage."""
    ids = devices(sweep.plan.cells[0].config.launch.devices)
    batches = []
    for stage in (stages.DATA, *stages.SCHEDULED, *stages.BETWEEN):
        named: dict[str, list[Job[object]]] = {}
        for job in sweep.todo(stage.name):
            if stage == stages.DATA and not job.needs:
                continue  # the sweep has built it, or it has failed
            named.setdefault(job.batch, []).append(job)
        for jobs in named.values():
            held = devices_held(jobs[0], ids)
            parts = shard(jobs, len(ids) // held) if held and stage.splits else [jobs]
            batches += [Batch(stage.name, part, held, jobs[0].follows) for part in parts]
    Scheduler(sweep, batches, list(ids)).run()


def run_batch(
    sweep: Sweep,
    stage: str,
    jobs: Sequence[Job[object]],
    timeout_s: float | None = None,
    held: Sequence[str] = (),
) -> None:
    """Run one worker over these jobs now. They are outside the plan's stages (preparing a model, tracking, benchmarks).

    `held`: devices that the worker computes on.
    """
    Scheduler(sweep, [Batch(stage, list(jobs), len(held), follows=False)], list(held), timeout_s=timeout_s).run()


def shard(jobs: Sequence[Job[object]], count: int) -> list[list[Job[object]]]:
    """Split jobs into at most `count` parts of about the same size; jobs of one adapter stay together."""
    groups: dict[str, list[Job[object]]] = {}
    for job in jobs:
        adapter = job.spec.adapter_key if isinstance(job.spec, SampleJob) else None
        groups.setdefault(adapter or job.key, []).append(job)
    parts: list[list[Job[object]]] = [[] for _ in range(min(count, len(groups)))]
    for group in sorted(groups.values(), key=len, reverse=True):
        min(parts, key=len).extend(group)
    return parts


def _stop(processes: list[subprocess.Popen[bytes]], patient: bool) -> None:
    """Stop workers. Ctrl-C reached them too: they get a moment to end, then they are killed.

    Preempted workers (`patient`) save as long as they need; the scheduler of the cluster sets the limit.
    """
    for process in processes if patient else []:
        process.send_signal(signal.SIGUSR2)
    for process in processes:
        try:
            process.wait(timeout=None if patient else 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
