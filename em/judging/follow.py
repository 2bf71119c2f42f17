"""Judging by an API while the answers are still being drawn.

One client serves all jobs of the batch. Each job follows its sample stage: the growing file in the stage's work
directory, then the sealed one, which shows what the growing one did not. Failed sample jobs are told on standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
import traceback
from array import array
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np

from em.api import client as api
from em.config import JudgeConfig
from em.judging.api.cache import mend
from em.judging.api.client import JudgeRequest, request_of
from em.judging.api.open import CACHE, POLL_S, judge_client
from em.judging.bandit import static
from em.judging.collector import CHUNK, Stage
from em.judging.job import JudgeJob, Pair
from em.judging.spool import row_hash
from em.questions.rubrics import STATIC
from em.records import Completion, Judgement
from em.runtime.events import Emitter, sentence
from em.runtime.progress import PROGRESS, Shown
from em.store import Store, from_row, read_jsonl
from em.store.checked_rows import WIDTH, checksum, sums_of
from em.store.layout import COMPLETIONS


def run(store: Store, jobs: list[JudgeJob], config: JudgeConfig, emit: Emitter, reports: Reports | None = None) -> None:
    """Judge all jobs; each is sealed as soon as its last verdict is there."""
    with contextlib.ExitStack() as stack:
        followed = [f for f in (_claim(job, store, emit) for job in sorted(jobs, key=lambda j: j.key)) if f]
        for f in followed:
            stack.callback(f.release.close)
        if not followed:
            return
        feed = Feed(store, followed, reports or Reports(), emit)
        try:
            mend(store.root / CACHE, emit.warn)
            with judge_client(config, store.root / CACHE, feed.say) as client:
                try:
                    api.run(client.grade(feed, feed.add))
                finally:
                    emit.count("judge_calls", client.calls)
                    emit.count("judge_cache_hits", client.cache_hits)
        except Exception as error:  # noqa: BLE001  the judge is gone: every job it still had fails by name
            traceback.print_exc()
            for f in feed.open:
                emit.failed(f.stage.job.key, sentence(error))


def _claim(job: JudgeJob, store: Store, emit: Emitter) -> Followed | None:
    emit.started(job.key)
    release = contextlib.ExitStack()
    folder = release.enter_context(store.claim("judge", job.key))
    if folder is None:  # another process finished it meanwhile
        release.close()
        emit.done(job.key)
        return None
    return Followed(Stage(job, folder, emit), store, release)


class Followed:
    """One sample stage that is read while it grows."""

    def __init__(self, stage: Stage, store: Store, release: contextlib.ExitStack) -> None:
        self.stage, self.store, self.release = stage, store, release
        self.key = stage.job.sample_key
        self.ended = False
        """Every answer of the sealed stage has been read."""
        self.programs: list[Pair] = []
        """Answers for Bandit, not yet given to it."""
        self._file: IO[bytes] | None = None
        self._sums: IO[bytes] | None = None
        """Checksums of the growing file's rows; None for the sealed one."""
        self._offset, self._number = 0, 0
        self._seen: array[int] | None = array("Q")
        """Hashes of the answers read from the growing file; None when the sealed one is read from its beginning."""

    def new(self) -> Iterator[Completion]:
        """Answers that came since the last call."""
        sealed = self.store.has("sample", self.key)  # looked at first: what is sealed grows no more
        if self._file is None and not self._open(sealed):
            return
        for completion in self._lines():
            if self._seen is not None:
                self._seen.append(row_hash(completion.id))
            yield completion
        if sealed:
            yield from self._unseen()
            self.close()
            self.ended = True

    def _open(self, sealed: bool) -> bool:
        if sealed:
            self._file, self._seen = (self.store.path("sample", self.key) / COMPLETIONS).open("rb"), None
            return True
        path = self.store.partial("sample", self.key) / COMPLETIONS
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as opened:
            files = [opened.enter_context(p.open("rb")) for p in (path, sums_of(path))]
            self._file, self._sums = files
            opened.pop_all()
            return True
        return False  # nothing drawn yet, or sealed this moment

    def _lines(self) -> Iterator[Completion]:
        """Whole lines after the last one read. A half one is read again: it may grow, or be cut off by a restart.

        A line that is not as it was written is left out: the sampler draws it anew, or says that it is damaged.
        """
        assert self._file is not None
        for file, at in ((self._file, self._offset), (self._sums, self._number * WIDTH)):
            if file is not None:
                file.seek(0, os.SEEK_END)  # a seek inside the buffer would show what has been cut off
                file.seek(at)
        for line in self._file:
            written = self._sums.read(WIDTH) if self._sums else checksum(line)
            if not line.endswith(b"\n") or len(written) < WIDTH:
                return
            self._offset += len(line)
            self._number += 1
            if written != checksum(line):
                continue
            try:
                completion = from_row(Completion, json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{self._file.name}: before byte {self._offset}: not an answer ({error})") from error
            yield completion

    def _unseen(self) -> Iterator[Completion]:
        """Answers of the sealed file that the growing one did not show: none, unless somebody removed it meanwhile."""
        if self._seen is None:
            return
        seen = np.sort(np.frombuffer(self._seen, dtype=np.uint64)) if self._seen else np.empty(0, np.uint64)
        for completion in read_jsonl(self.store.path("sample", self.key) / COMPLETIONS, Completion):
            name = np.uint64(row_hash(completion.id))
            at = int(np.searchsorted(seen, name))
            if at == len(seen) or seen[at] != name:
                yield completion

    def close(self) -> None:
        for file in (self._file, self._sums):
            if file is not None:
                file.close()


class Reports:
    """What the scheduler says on standard input: sample jobs that failed. After its end no more will come."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        """sample key → sentence"""
        self.ended = False
        self._thread: threading.Thread | None = None

    def listen(self) -> None:
        """Start reading; called when there is something to wait for."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, args=(sys.stdin,), daemon=True)
            self._thread.start()

    def _read(self, lines: Iterable[str]) -> None:
        with contextlib.suppress(OSError, ValueError):  # no standard input, or closed: nobody reports
            for line in lines:
                event = json.loads(line)
                if event["event"] == "failed" and event["stage"] == "sample":
                    self.failed[event["key"]] = event["error"]
        self.ended = True


class Feed:
    """The prompts of all jobs as their answers appear, and where the verdicts go."""

    def __init__(self, store: Store, followed: list[Followed], reports: Reports, emit: Emitter) -> None:
        self.open = list(followed)
        """Jobs neither sealed nor failed."""
        self._by_key = {f.stage.job.key: f for f in followed}
        self._store, self._reports, self._emit = store, reports, emit
        self._shown, self._note = Shown(emit, PROGRESS), ""
        self._stages = [f.stage for f in followed]
        self._turn = asyncio.Lock()
        self._ready: Iterator[JudgeRequest] = iter(())

    async def get(self) -> JudgeRequest | None:
        """The next prompt; waits for one while any job's answers are still being drawn. None: there will be no more."""
        request = next(self._ready, None)
        if request is not None:
            return request
        async with self._turn:
            while True:
                request = next(self._ready, None)
                if request is None:
                    await self._end_read()
                    self._ready = self._read([f for f in self.open if not f.ended])
                    request = next(self._ready, None)
                if request is not None:
                    return request
                await self._end_read()
                self._drop_failed()
                if all(f.ended for f in self.open):
                    return None
                self._reports.listen()
                self._show()
                await asyncio.sleep(POLL_S)

    def _read(self, drawing: list[Followed]) -> Iterator[JudgeRequest]:
        for f in drawing:
            try:
                for completion in f.new():
                    for pair in f.stage.pairs(completion):
                        if pair[2] == STATIC:
                            f.programs.append(pair)
                        else:
                            yield request_of(pair, f.stage.rubrics[pair[1].id], f.stage.job.key)
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._fail(f, error)

    async def _end_read(self) -> None:
        """Give Bandit its programs; seal what has its last verdict."""
        for f in list(self.open):
            if f.programs and (f.ended or len(f.programs) >= CHUNK):
                some, f.programs = f.programs, []
                for judgement in await asyncio.to_thread(_verdicts, some):
                    f.stage.add(judgement)
            self._seal_if_whole(f)

    def add(self, request: JudgeRequest, judgement: Judgement) -> None:
        """Take a verdict."""
        f = self._by_key[request.job]
        if f in self.open:
            f.stage.add(judgement)
            self._show()
            self._seal_if_whole(f)

    def say(self, note: str) -> None:
        """What the judge waits for."""
        self._note = note
        self._show(at_once=True)

    def _show(self, at_once: bool = False) -> None:
        """How many of the verdicts asked for so far there are."""
        if at_once or self._shown.due():
            done, total = sum(len(s.spool) for s in self._stages), sum(s.total for s in self._stages)
            self._shown(done, total, self._note)

    def _seal_if_whole(self, f: Followed) -> None:
        if f not in self.open or not f.ended or f.programs or len(f.stage.spool) < f.stage.total:
            return
        self.open.remove(f)
        self._show(at_once=not self.open)
        try:
            f.stage.seal(self._store)
        except Exception as error:  # noqa: BLE001  one failed job must not stop the others
            traceback.print_exc()
            self._emit.failed(f.stage.job.key, sentence(error))
        else:
            self._emit.done(f.stage.job.key)
        f.release.close()

    def _drop_failed(self) -> None:
        """Jobs whose answers will never be whole."""
        ended = self._reports.ended  # looked at first: what was sealed before the end is there
        for f in [f for f in self.open if not f.ended]:
            error = self._reports.failed.get(f.key)
            if error is None and ended and not self._store.has("sample", f.key):
                error = f"sample stage {f.key} is not finished and nobody is drawing it"
            if error is not None:
                self._fail(f, RuntimeError(error))

    def _fail(self, f: Followed, error: Exception) -> None:
        self.open.remove(f)
        f.close()
        f.release.close()
        self._emit.failed(f.stage.job.key, sentence(error))


def _verdicts(programs: list[Pair]) -> list[Judgement]:
    return static([(completion, question) for completion, question, _ in programs])
