"""Finish judge jobs that follow their sample stages: seal each with its last verdict, or fail it (`JobSealer`)."""

from __future__ import annotations

import contextlib
import traceback
from dataclasses import dataclass, field

from em.judging.api.client import JudgeRequest
from em.judging.collector import VerdictCollector
from em.judging.job import Pair
from em.judging.tail import SampleTail
from em.records import Judgement
from em.runtime.events import Emitter, error_message
from em.runtime.progress import WHOLE_BATCH, ProgressShown
from em.store import Store


@dataclass(eq=False)
class FollowedJob:
    """A judge job and the sample stage that it follows."""

    collector: VerdictCollector
    tail: SampleTail
    claim: contextlib.ExitStack
    """Holds the claim on the job's folder; closed when the job is sealed or has failed."""
    ruled: list[Pair] = field(default_factory=list)
    """Answers that need no judge (by_rule.py) and have no verdict yet."""

    @property
    def key(self) -> str:
        return self.collector.job.key

    @property
    def complete(self) -> bool:
        """Whether every answer has been read and has all its verdicts."""
        return self.tail.ended and not self.ruled and self.collector.complete


class JobSealer:
    """Takes the verdicts of all jobs, shows their number, and seals each job as soon as it is complete."""

    def __init__(self, store: Store, jobs: list[FollowedJob], emit: Emitter) -> None:
        self.open = list(jobs)
        """Jobs that are neither sealed nor failed."""
        self._jobs = {job.key: job for job in jobs}
        self._store, self._emit = store, emit
        self._progress, self._waiting_for = ProgressShown(emit, WHOLE_BATCH), ""

    def add(self, request: JudgeRequest, judgement: Judgement) -> None:
        """Take one verdict. A verdict of a job that has failed is dropped."""
        job = self._jobs[request.job]
        if job in self.open:
            job.collector.add(judgement)
            self.show_progress()
            self.seal_if_complete(job)

    def show_waiting(self, reason: str) -> None:
        """Show what the judge waits for, with the progress from now on."""
        self._waiting_for = reason
        self.show_progress(at_once=True)

    def show_progress(self, at_once: bool = False) -> None:
        """Show how many of the expected verdicts there are, in all jobs together."""
        if at_once or self._progress.due():
            collectors = [job.collector for job in self._jobs.values()]
            done, total = sum(len(c.spool) for c in collectors), sum(c.total for c in collectors)
            self._progress(done, total, self._waiting_for)

    def seal_if_complete(self, job: FollowedJob) -> None:
        if job not in self.open or not job.complete:
            return
        self.open.remove(job)
        self.show_progress(at_once=not self.open)
        try:
            job.collector.seal(self._store)
        except Exception as error:  # noqa: BLE001  one failed job must not stop the others
            traceback.print_exc()
            self._emit.failed(job.key, error_message(error))
        else:
            self._emit.done(job.key)
        job.claim.close()

    def fail(self, job: FollowedJob, error: Exception) -> None:
        """Report an error of one job and drop the job."""
        self.open.remove(job)
        job.tail.close()
        job.claim.close()
        self._emit.failed(job.key, error_message(error))

    def fail_all(self, error: Exception) -> None:
        """Report an error that ends all open jobs."""
        for job in list(self.open):
            self.fail(job, error)
