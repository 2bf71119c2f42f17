"""Judge by an API while the answers are still being sampled (`run`).

One client judges for all jobs of the batch. `AnswerFeed` gives it the answers as the samplers write them, `JobSealer`
takes the verdicts, and `FailureReports` hears on standard input which sample jobs have failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator

from em.api import client as api
from em.config import JudgeConfig
from em.judging import by_rule
from em.judging.api.cache import repair
from em.judging.api.client import JudgeRequest, request_of
from em.judging.api.open import CACHE, POLL_S, judge_client
from em.judging.collector import CHUNK, VerdictCollector
from em.judging.job import JudgeJob
from em.judging.sealer import FollowedJob, JobSealer
from em.judging.tail import SampleTail
from em.questions.rubrics import WITHOUT_JUDGE
from em.runtime.events import Emitter
from em.store import Store


def run(
    store: Store, jobs: list[JudgeJob], config: JudgeConfig, emit: Emitter, reports: FailureReports | None = None
) -> None:
    """Judge all jobs. Each is sealed as soon as its last verdict is there; errors are reported per job."""
    with contextlib.ExitStack() as stack:
        claimed = [_claim(job, store, emit) for job in sorted(jobs, key=lambda j: j.key)]
        followed = [job for job in claimed if job is not None]
        for job in followed:
            stack.callback(job.claim.close)
        if not followed:
            return
        sealer = JobSealer(store, followed, emit)
        feed = AnswerFeed(store, sealer, reports or FailureReports())
        try:
            repair(store.root / CACHE, emit.warn)
            with judge_client(config, store.root / CACHE, sealer.show_waiting) as client:
                try:
                    api.run(client.grade(feed, sealer.add))
                finally:
                    emit.count("judge_calls", client.calls)
                    emit.count("judge_cache_hits", client.cache_hits)
        except Exception as error:  # noqa: BLE001  without its judge every open job fails, each under its own name
            traceback.print_exc()
            sealer.fail_all(error)


def _claim(job: JudgeJob, store: Store, emit: Emitter) -> FollowedJob | None:
    """Claim the folder of a job. Return None if another process has finished the job meanwhile."""
    emit.started(job.key)
    claim = contextlib.ExitStack()
    folder = claim.enter_context(store.claim("judge", job.key))
    if folder is None:
        claim.close()
        emit.done(job.key)
        return None
    return FollowedJob(VerdictCollector(job, folder, emit), SampleTail(store, job.sample_key), claim)


class FailureReports:
    """The scheduler's reports on standard input of sample jobs that failed. After its end no more can come."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        """Key of a sample stage → its error message."""
        self.ended = False
        self._thread: threading.Thread | None = None

    def listen(self) -> None:
        """Start to read, if not started yet. Call it when there is something to wait for."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, args=(sys.stdin,), daemon=True)
            self._thread.start()

    def _read(self, lines: Iterable[str]) -> None:
        with contextlib.suppress(OSError, ValueError):  # no standard input, or closed: no report can come
            for line in lines:
                event = json.loads(line)
                if event["event"] == "failed" and event["stage"] == "sample":
                    self.failed[event["key"]] = event["error"]
        self.ended = True


class AnswerFeed:
    """The judge's requests for all open jobs, as their answers appear (a RequestSource)."""

    def __init__(self, store: Store, sealer: JobSealer, reports: FailureReports) -> None:
        self._store, self._sealer, self._reports = store, sealer, reports
        self._turn = asyncio.Lock()
        """Held by the one worker that reads files or waits for them."""
        self._ready: Iterator[JudgeRequest] = iter(())

    async def get(self) -> JudgeRequest | None:
        """Return the next request, or None after the last one. Wait while the answers of any job are still being
        sampled."""
        request = next(self._ready, None)
        if request is not None:
            return request
        async with self._turn:
            while True:
                request = next(self._ready, None)
                if request is None:
                    await self._finish_read_jobs()
                    self._ready = self._read_new([job for job in self._sealer.open if not job.tail.ended])
                    request = next(self._ready, None)
                if request is not None:
                    return request
                await self._finish_read_jobs()
                self._fail_incomplete()
                if all(job.tail.ended for job in self._sealer.open):
                    return None
                self._reports.listen()
                self._sealer.show_progress()
                await asyncio.sleep(POLL_S)

    def _read_new(self, jobs: list[FollowedJob]) -> Iterator[JudgeRequest]:
        """Yield a request per new answer and rubric. What needs no judge is set aside."""
        for job in jobs:
            collector = job.collector
            try:
                for completion in job.tail.new_answers():
                    for pair in collector.pairs(completion):
                        if pair[2] in WITHOUT_JUDGE:
                            job.ruled.append(pair)
                        else:
                            yield request_of(pair, collector.rubrics[pair[1].id], job.key)
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._sealer.fail(job, error)

    async def _finish_read_jobs(self) -> None:
        """Judge what needs no judge, and seal the jobs that are complete."""
        for job in list(self._sealer.open):
            if job.ruled and (job.tail.ended or len(job.ruled) >= CHUNK):
                ruled, job.ruled = job.ruled, []
                for judgement in await asyncio.to_thread(by_rule.judge, ruled):
                    job.collector.add(judgement)
            self._sealer.seal_if_complete(job)

    def _fail_incomplete(self) -> None:
        """Fail the jobs whose sample stage will never be finished."""
        ended = self._reports.ended  # read first: a stage that was sealed before the end is in the store
        for job in [job for job in self._sealer.open if not job.tail.ended]:
            error = self._reports.failed.get(job.tail.key)
            if error is None and ended and not self._store.has("sample", job.tail.key):
                error = f"sample stage {job.tail.key} is not finished and nobody is sampling it"
            if error is not None:
                self._sealer.fail(job, RuntimeError(error))
