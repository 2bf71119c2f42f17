"""Log training curves to W&B during training, in a process that reads the trainers' logs. The door is following.

It starts if runs are tracked online. Trainers do not wait for it; if the network or W&B fails, only this process ends,
and tracking/wandb_run.py logs the missing rows at the end of the sweep. A row's step is W&B's step, so a continued run
knows which rows the server has, and no row is logged twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from em.config import TrackingBackend, TrackingMode
from em.runtime import credentials
from em.runtime.events import Emitter, error_message
from em.runtime.preempt import PREEMPTED, SIGNALS
from em.store import Store, job_file
from em.tracking import wandb_run
from em.tracking.job import LiveJob, Row, Run, Training
from em.tracking.rows import cell_run, training_rows

if TYPE_CHECKING:
    from em.sweep.state import Sweep


POLL_S = 2.0
ENDED, STOPPED = b"ended\n", b"stopped\n"
LEAVE_S = {ENDED: 30.0, STOPPED: 8.0}
"""Seconds that the sweep waits for the last rows to arrive. A stopped sweep is about to be killed."""


@contextmanager
def following(sweep: Sweep) -> Iterator[None]:
    """Log the curves of this machine's training runs during the body."""
    trainings = _trainings(sweep)
    if not trainings:
        yield
        return
    process, log = _start(sweep, trainings)
    try:
        yield
    except BaseException:
        _end(sweep, process, log, STOPPED)
        raise
    _end(sweep, process, log, ENDED)


def _trainings(sweep: Sweep) -> tuple[Training, ...]:
    """Return the training runs left to do here, each with the tracker's runs of the cells that share it."""
    todo, mine = {job.key for job in sweep.todo("train")}, {s.id for s in sweep.subjects()}
    runs: dict[str, list[Run]] = {}
    for cell in sweep.plan.cells:
        how = cell.config.tracking
        live = how.backend == TrackingBackend.wandb and credentials.tracking_mode(how.mode) == TrackingMode.online
        if live and cell.id in mine and cell.train_key in todo:
            runs.setdefault(cell.train_key, []).append(cell_run(sweep, cell))
    return tuple(Training(key=key, runs=tuple(found)) for key, found in runs.items())


def _start(sweep: Sweep, trainings: tuple[Training, ...]) -> tuple[subprocess.Popen[bytes], Path]:
    ledger, logs = sweep.ledger, sweep.folder / "logs"
    name = f"live-{sweep.share.name}" if sweep.share else "live"
    batch, log = logs / f"{name}.json", logs / f"{name}.log"
    offset = ledger.stat().st_size if ledger.exists() else 0
    job_file.write(batch, sweep.store.root.parent, [LiveJob(ledger=str(ledger), offset=offset, trainings=trainings)])
    with log.open("a") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "em.sweep.worker", "live", str(batch)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
    return process, log


def _end(sweep: Sweep, process: subprocess.Popen[bytes], log: Path, how: bytes) -> None:
    """Tell the process to finish. Kill it after LEAVE_S, so that it does not write into a run that is logged again."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # the process has ended, because all training runs have or by an error
        process.stdin.write(how)
        process.stdin.close()
    try:
        code = process.wait(LEAVE_S[how])
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    if code:
        sweep.warn(f"live training curves ended early; they are logged with the results. Its log: {log}")


def work(store: Store, jobs: list[LiveJob], emit: Emitter) -> None:
    """Follow the one job's training runs until they end, or until standard input says that the sweep has ended."""
    for number in (*SIGNALS, signal.SIGINT):  # SLURM signals every process; the sweep decides the end
        signal.signal(number, lambda *_: None)
    os.nice(10)
    code = 0
    try:
        _follow(store, jobs[0], _SweepState.listen(Path(jobs[0].ledger), jobs[0].offset))
    except BaseException as error:  # noqa: BLE001  any error of the client: wandb_run logs the curves later
        traceback.print_exc()
        sys.stderr.write(f"live tracking ended: {error_message(error)}\n")
        code = 1
    sys.stderr.flush()
    if code:
        os._exit(code)  # the client's clean-up would wait for its dead service process


@dataclass
class _SweepState:
    """The state of the sweep as this process sees it: how it ended, and which training runs failed."""

    ledger: Path
    offset: int
    received: bytes = b""
    """Standard input so far."""
    over: threading.Event = field(default_factory=threading.Event)
    failed: set[str] = field(default_factory=set)

    @classmethod
    def listen(cls, ledger: Path, offset: int) -> _SweepState:
        sweep = cls(ledger, offset)
        threading.Thread(target=sweep._read, daemon=True).start()
        return sweep

    def _read(self) -> None:
        while received := os.read(0, 1 << 10):  # sys.stdin would be locked when this process ends
            self.received += received
        self.over.set()

    def read_ledger(self) -> None:
        """Read the new lines of the ledger."""
        if not self.ledger.exists():
            return
        with self.ledger.open("rb") as file:
            file.seek(self.offset)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):  # a line cut by a full disk
                row = json.loads(line)
                if (row["event"], row["stage"]) == ("failed", "train"):
                    self.failed.add(row["key"])


def _follow(store: Store, job: LiveJob, sweep: _SweepState) -> None:
    waiting = {training.key: training.runs for training in job.trainings}
    logging: dict[str, list[_Curve]] = {}
    while waiting:
        over = sweep.over.wait(POLL_S)
        sweep.read_ledger()
        for key, runs in list(waiting.items()):
            done = store.has("train", key)
            rows = training_rows(store.path("train", key) if done else store.partial("train", key))
            if rows and key not in logging:
                logging[key] = [_Curve(run) for run in runs]
            for curve in logging.get(key, ()):
                curve.log(rows)
            failed = key in sweep.failed
            if done or failed or over:
                for curve in logging.get(key, ()):
                    curve.finish(0 if done else 1 if failed else PREEMPTED, stopped=sweep.received == STOPPED)
                del waiting[key]


class _Curve:
    """One open W&B run."""

    def __init__(self, run: Run) -> None:
        self.run = wandb_run.begin(run, run.config, reinit="create_new")
        self.last = self.run.starting_step - 1

    def log(self, rows: list[Row]) -> None:
        self.last = wandb_run.log_training(self.run, rows, self.last)

    def finish(self, code: int, stopped: bool) -> None:
        if code == PREEMPTED and stopped:
            self.run.mark_preempting()
        self.run.finish(exit_code=code)
