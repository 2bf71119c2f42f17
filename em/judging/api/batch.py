"""Judging through a vendor's batch API: half the price, an answer within a day.

All prompts are written to a file, the file is uploaded, a batch is made of it, polled, and its results go into the same
cache as any judgement. What was sent is remembered on disk before it is sent, so that a run that was killed goes on
waiting for its batch instead of paying for a second one:

    <store>/judge_batches/<judge>/<batch>/
        requests.jsonl    one request a line, custom_id = key in the cache
        state.json        stage of the batch, its name in the vendor's list, and its ids

Prompts wait in a file, and one batch at a time is in memory: a million prompts need little more of it than a thousand.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple, replace
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from filelock import FileLock, Timeout

from em.api.client import ApiError, Reply, short
from em.config import JudgeConfig
from em.config.judge import ScoreMethod
from em.judging.api import request as api_request
from em.judging.api.cache import JudgeCache
from em.judging.api.client import PATH, JudgeClient, JudgeRequest, ListedRequests, OnResult, Source, judgement
from em.judging.api.request import OPTIONAL
from em.judging.api.spending import reply_tokens
from em.judging.verdict import Verdict
from em.records import Outcome
from em.store import write_atomic

MAX_REQUESTS = 50_000
MAX_BYTES = 20_000_000
"""Of one batch; OpenAI's limits are 50,000 requests and 200 MB, which would be in memory several times over."""
ENDED = {"completed", "expired", "cancelled", "failed"}
POLL_S = 30.0
OUTAGE_S = 3600.0
"""How long a vendor may not say where a batch is: it is waited for up to a day, and not lost by an hour's outage."""


class BatchClient:
    """The same interface as JudgeClient. Nothing is asked before the source is at its end."""

    def __init__(
        self,
        config: JudgeConfig,
        cache: JudgeCache,
        folder: Path,
        poll_s: float = POLL_S,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`say` is told what is being waited for, whenever that changes."""
        self._client = JudgeClient(config, cache)  # for its keys, its spending and its way to the API
        self._config, self._cache, self._poll_s, self._say = config, cache, poll_s, say
        self._folder = folder / hashlib.sha256(json.dumps(self._client.identity).encode()).hexdigest()[:20]
        self._replies = config.samples if config.score == ScoreMethod.sampled else 1
        self.cache_hits = 0
        self.calls = 0
        """Prompts sent in batches by this run."""
        self._refused: dict[str, Verdict] = {}
        """Key → the error that a prompt was answered with: to send it again would bring the same."""
        self._unkept: dict[str, Verdict] = {}
        """Key → a verdict that is not for the cache."""
        self._answered = False
        """Some prompt of the batches under way was not refused."""
        self._loading = asyncio.Lock()
        """Held by the one batch whose prompts or results are in memory."""
        self._states: dict[str, tuple[str, int, int]] = {}
        """Batch → its status, prompts answered and prompts in all: for `say`."""

    async def grade(self, source: Source | Iterable[JudgeRequest], on_result: OnResult) -> None:
        """Judge every request. Raises ApiError when a batch fails, or leaves prompts unanswered: run again, what came
        back is kept and only the rest is asked."""
        feed: Source = ListedRequests(source) if isinstance(source, Iterable) else source
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._folder) as file:
            asked, lost = _Asked(file), 0
            while (request := await feed.get()) is not None:
                asked.add(self._client.key(request), request)
            async with self._client.api, self._alone():
                await self._collect()  # of an earlier run
                missing = self._missing(asked)
                self.cache_hits += len(asked) - len(missing)
                self._reserve(asked, missing)
                await self._send(asked, missing)
                for key, request in asked.all():
                    lost += not await self._give(key, request, on_result)
        if lost:
            raise ApiError(f"{lost} judgements are not in what the batch brought back: run again, only they are asked")

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """One process at a time sends to this judge and waits: two would pay twice for what both ask."""
        lock = FileLock(self._folder / "lock")
        while True:
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:
                self._say("another run waits for its batch of this judge: this one goes on after it")
                await asyncio.sleep(self._poll_s)
        try:
            yield
        finally:
            lock.release()

    def _missing(self, asked: _Asked) -> array[int]:
        """Where the prompts are that the cache does not know, each once."""
        missing, seen = array("Q"), set()
        for at, (key, _) in zip(asked.offsets, asked.all(), strict=True):
            short_key = int(key[:16], 16)  # 64 bits of it: a tenth of the memory
            if short_key not in seen and self._client.cached(key) is None:
                seen.add(short_key)
                missing.append(at)
        self._cache.flush()  # ends the reading: it may be hours to the next
        return missing

    async def _give(self, key: str, request: JudgeRequest, on_result: OnResult) -> bool:
        """Hand out a verdict, if there is one."""
        verdict = self._cache.get(key) or self._unkept.get(key) or self._refused.get(key)
        if verdict is not None:
            await self._client.require_readable(verdict)
            on_result(request, judgement(request, verdict))
        return verdict is not None

    def _reserve(self, asked: _Asked, missing: array[int]) -> None:
        """Raise before anything is written when judge.max_dollars does not cover all of it."""
        requests = (asked.at(offset)[1] for offset in missing)
        sizes = ((len(r.prompt.encode("utf-8", "replace")), bool(r.choices)) for r in requests)  # of other scripts more
        self._client.spending.require((size, reply_tokens(self._config, choices)) for size, choices in sizes)

    async def _send(self, asked: _Asked, missing: array[int]) -> None:
        """Batches of these prompts, without what this vendor refuses. Raises ApiError where it refuses them all."""
        tried = ""
        for left_out in OPTIONAL:
            first = next(self._lines(asked, missing[:1], left_out), "")
            if first == tried or (self._replies > 1 and "n" in left_out):  # one reply a prompt would not be enough
                continue
            tried, self._answered = first, False
            self._refused.clear()
            for lines in _parts(self._lines(asked, missing, left_out)):
                self._remember(lines)
            await self._collect()
            if self._answered or not self._refused:
                return
        if len(self._refused) >= self._config.max_failures:
            reason = next(iter(self._refused.values())).detail
            raise ApiError(
                f"the vendor refuses all {len(self._refused)} prompts of the batch ({reason}): check judge.model"
            )

    def _lines(self, asked: _Asked, missing: array[int], left_out: Sequence[str]) -> Iterator[str]:
        """One line a prompt."""
        for key, request in map(asked.at, missing):
            whole = api_request.body(self._config, request.prompt, request.choices)
            body = {name: value for name, value in whole.items() if name not in left_out}
            row = {"custom_id": key, "method": "POST", "url": f"/v1{PATH}", "body": body}
            yield json.dumps({**row, "choices": list(request.choices)}) + "\n"

    def _remember(self, lines: list[str]) -> None:
        text = "".join(lines)
        folder = self._folder / hashlib.sha256(text.encode()).hexdigest()[:20]
        folder.mkdir(exist_ok=True)
        write_atomic(folder / "requests.jsonl", text)
        _save(folder, {"stage": "written", "name": uuid4().hex})

    async def _collect(self) -> None:
        """Send what is written and not yet sent, wait for all of it, and keep what came back."""
        folders = sorted(p.parent for p in self._folder.glob("*/state.json"))
        await asyncio.gather(*(self._follow(folder) for folder in folders))

    async def _follow(self, folder: Path) -> None:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if state["stage"] == "written":
            state = _save(folder, {**state, "stage": "creating", "file": await self._upload(folder)})
        if state["stage"] == "creating":
            batch = await self._create(state.get("name", folder.name), state["file"])
            state = _save(folder, {**state, "stage": "sent", "batch": batch})
        try:
            batch = await self._wait(state["batch"])
            if batch["status"] != "failed":
                async with self._loading:
                    await self._keep(folder, batch)
        except _GoneError as error:
            raise ApiError(
                f"batch {state['batch']} cannot be read at {self._config.base_url} ({error}): check the key; if the "
                f"batch is gone for good, delete {folder} and run again, and its prompts are asked anew"
            ) from error
        shutil.rmtree(folder)
        if batch["status"] == "failed":
            raise ApiError(f"the judge's batch failed: {short(json.dumps(batch.get('errors')))}")

    async def _upload(self, folder: Path) -> str:
        """Id of the file at the vendor."""
        async with self._loading:
            sent = b"".join(_sent(row) for row in _rows(folder))
            self.calls += sent.count(b"\n")
            reply = await self._client.api.upload("/files", {"purpose": "batch"}, "judge.jsonl", sent)
        return _json(reply, "the upload")["id"]

    async def _create(self, name: str, file: str) -> str:
        """Id of the batch of this name: one that an earlier try made after all, else a new one.

        A name is used once: the same prompts after a batch that failed or expired are another batch.
        """
        listed = _json(await self._client.api.get("/batches?limit=100"), "the list of batches")
        for batch in listed.get("data", []):
            if (batch.get("metadata") or {}).get("em") == name:
                return batch["id"]
        body = {"input_file_id": file, "endpoint": f"/v1{PATH}", "completion_window": "24h"}
        body |= {"metadata": {"em": name}}
        reply = await self._client.api.post("/batches", api_request.encode(body), retry=False)
        return _json(reply, "making the batch")["id"]

    async def _get(self, path: str, file: bool = False) -> Reply:
        """Raises _GoneError where the vendor says that there is no such thing, or not for this key."""
        try:
            reply = await self._client.api.get(path, file)
        except ApiError as error:
            raise _GoneError(str(error)) from error
        if reply.body is None and not reply.transient:
            raise _GoneError(reply.detail)
        return reply

    async def _wait(self, name: str) -> dict[str, Any]:
        heard = time.monotonic()
        while True:
            reply = await self._get(f"/batches/{name}")
            if reply.body is None and time.monotonic() - heard < OUTAGE_S:
                self._say(f"the vendor does not say where the batch is ({reply.detail}): asked again")
                await asyncio.sleep(self._poll_s)
                continue
            heard = time.monotonic()
            batch = _json(reply, "the state of the batch")
            self._tell(name, batch)
            if batch["status"] in ENDED:
                return batch
            await asyncio.sleep(self._poll_s)

    def _tell(self, name: str, batch: dict[str, Any]) -> None:
        """Say where the batches are, where one of them moved."""
        counts = batch.get("request_counts") or {}
        state = (str(batch["status"]), int(counts.get("completed") or 0), int(counts.get("total") or 0))
        if self._states.get(name) != state:
            self._states[name] = state
            statuses, done, total = zip(*self._states.values(), strict=True)
            parts = ", ".join(f"{count} {status}" for status, count in sorted(Counter(statuses).items()))
            self._say(f"batches at the vendor: {parts}; prompts answered: {sum(done)} of {sum(total)}")

    async def _keep(self, folder: Path, batch: dict[str, Any]) -> None:
        """Put every verdict of a batch into the cache, under the keys this folder asked for and no other."""
        asked = {
            row["custom_id"]: (len(row["body"]["messages"][0]["content"]), tuple(row["choices"]))
            for row in _rows(folder)
        }
        for name in ("output_file_id", "error_file_id"):
            if not batch.get(name):
                continue
            reply = await self._get(f"/files/{batch[name]}/content", file=True)
            if reply.body is None:
                raise ApiError(f"the results of the judge's batch could not be read: {reply.detail}")
            for line in reply.body.splitlines():
                self._keep_line(line, asked)
        self._cache.flush()

    def _keep_line(self, line: bytes, asked: dict[str, tuple[int, tuple[str, ...]]]) -> None:
        """`asked`: key → characters of the prompt, labels."""
        try:
            row = json.loads(line)
            key, response = row["custom_id"], row.get("response") or {}
            chars, choices = asked[key]
            status, body = response.get("status_code"), json.dumps(response.get("body")).encode()
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # no line of ours: its prompt stays unanswered, and that is said at the end
        if type(status) is not int:
            return
        got = api_request.opened(Reply(body) if status == 200 else self._client.api.failure(status, body))
        verdict = got if isinstance(got, Verdict) else self._verdict(got, choices)
        if status == 200:  # a broken answer was paid for, too
            usage = {} if isinstance(got, Verdict) else got.usage
            self._client.spending.count(chars, usage, reply_tokens(self._config, bool(choices)))
        self._answered |= status not in (400, 422) or verdict.outcome != Outcome.error
        if verdict.outcome == Outcome.error:
            if status < 500 and status not in (408, 429):
                self._refused[key] = verdict
        elif self._client.cached(key) is None and not self._client.keep(key, verdict):
            self._unkept[key] = verdict

    def _verdict(self, got: api_request.Opened, choices: tuple[str, ...]) -> Verdict:
        if len(got.found) < self._replies:  # a single request would ask for the rest
            said = f"the batch brought {len(got.found)} of {self._replies} replies a prompt"
            return api_request.failed(f"{said}: set judge.batch=false, or judge.score=text")
        return api_request.verdict(self._config, got.found[: self._replies], got.finish, choices)


class _GoneError(Exception):
    """A batch or a file is not there for this key."""


class _Asked:
    """What was asked for, in a file without a name: 8 bytes of memory a prompt."""

    def __init__(self, file: IO[bytes]) -> None:
        self.offsets = array("Q")
        self._file, self._end = file, 0

    def __len__(self) -> int:
        return len(self.offsets)

    def add(self, key: str, request: JudgeRequest) -> None:
        self.offsets.append(self._end)
        self._end += self._file.write(json.dumps([key, *astuple(request)]).encode("ascii") + b"\n")

    def all(self) -> Iterator[tuple[str, JudgeRequest]]:
        """Key and request of each, in their order."""
        self._file.seek(0)
        return map(_request, self._file)

    def at(self, offset: int) -> tuple[str, JudgeRequest]:
        self._file.seek(offset)
        return _request(self._file.readline())


def _request(line: bytes) -> tuple[str, JudgeRequest]:
    key, *fields = json.loads(line)
    request = JudgeRequest(*fields)
    return key, replace(request, choices=tuple(request.choices))


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    """What a batch was written with."""
    with (folder / "requests.jsonl").open("rb") as file:
        yield from map(json.loads, file)


def _sent(row: dict[str, Any]) -> bytes:
    """A row as the vendor gets it."""
    return json.dumps({name: value for name, value in row.items() if name != "choices"}).encode("ascii") + b"\n"


def _parts(lines: Iterable[str]) -> Iterable[list[str]]:
    """Lines in batches the API takes."""
    part: list[str] = []
    size = 0
    for line in lines:
        if part and (len(part) == MAX_REQUESTS or size + len(line) > MAX_BYTES):
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part:
        yield part


def _save(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    write_atomic(folder / "state.json", json.dumps(state) + "\n")
    return state


def _json(reply: Reply, what: str) -> dict[str, Any]:
    try:
        found = json.loads(reply.body or b"")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ApiError(f"judge.batch: {what} did not work ({reply.detail or 'no JSON came back'}): run again")
    return found
