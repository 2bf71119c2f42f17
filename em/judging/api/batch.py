"""A judge behind a vendor's batch API (`BatchClient`): half the price, answers within a day.

Results go into the same cache as those of single requests. A run that was killed goes on to wait for its batches,
because each is on disk before it is sent.
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
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from em.api.client import ApiError, Reply, short
from em.config import JudgeConfig
from em.config.judge import ScoreMethod
from em.judging.api import request as api_request
from em.judging.api.batch_files import RequestFile, line_to_send, read_rows, read_state, save_state, split_into_batches
from em.judging.api.cache import JudgeCache
from em.judging.api.client import PATH, JudgeClient, JudgeRequest, ListedRequests, OnResult, RequestSource, judgement
from em.judging.api.request import LEFT_OUT
from em.judging.api.spending import reply_tokens
from em.judging.verdict import Verdict
from em.records import Outcome
from em.store import write_atomic

ENDED = {"completed", "expired", "cancelled", "failed"}
POLL_S = 30.0
OUTAGE_S = 3600.0
"""Seconds without news of a batch after which its run fails. A batch may take a day, an outage an hour."""

VendorObject = dict[str, Any]
"""A JSON object of the vendor: a batch, a file, or a list of them."""


class BatchClient:
    """The same interface as JudgeClient. It sends nothing before it has read the whole source."""

    def __init__(
        self,
        config: JudgeConfig,
        cache: JudgeCache,
        folder: Path,
        poll_s: float = POLL_S,
        on_wait: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_wait`: called with a message whenever the client begins to wait for something else."""
        self._client = JudgeClient(config, cache)  # for its keys, its spending and its way to the API
        self._config, self._cache, self._poll_s, self._on_wait = config, cache, poll_s, on_wait
        self._folder = folder / hashlib.sha256(json.dumps(self._client.identity).encode()).hexdigest()[:20]
        self._replies = config.samples if config.score == ScoreMethod.sampled else 1
        self.cache_hits = 0
        self.calls = 0
        """Prompts that this run sent in batches."""
        self._refused: dict[str, Verdict] = {}
        """Key → the error for a refused prompt. To send it again would bring the same error."""
        self._unkept: dict[str, Verdict] = {}
        """Key → a verdict that must not go into the cache."""
        self._accepted = False
        """Whether the vendor has accepted any prompt of the batches in flight."""
        self._loading = asyncio.Lock()
        """Held by the one batch whose prompts or results are in memory."""
        self._states: dict[str, tuple[str, int, int]] = {}
        """Batch → its status, prompts answered, prompts in all."""

    async def grade(self, source: RequestSource | Iterable[JudgeRequest], on_result: OnResult) -> None:
        """Judge every request, as JudgeClient.grade does.

        Raises ApiError if a batch fails or leaves prompts unanswered. The next run sends only those prompts again.
        """
        feed: RequestSource = ListedRequests(source) if isinstance(source, Iterable) else source
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._folder) as file:
            requests, lost = RequestFile(file), 0
            while (request := await feed.get()) is not None:
                requests.add(self._client.key(request), request)
            async with self._client.api, self._exclusive():
                await self._collect()  # the batches of an earlier run
                missing = self._missing(requests)
                self.cache_hits += len(requests) - len(missing)
                self._require_budget(requests, missing)
                await self._send(requests, missing)
                for key, request in requests.all():
                    lost += not await self._hand_out(key, request, on_result)
        if lost:
            raise ApiError(f"{lost} judgements are not in the results of the batch: run again, only they are sent")

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[None]:
        """Let one process at a time send batches to this judge. Two would pay twice for prompts that both send."""
        lock = FileLock(self._folder / "lock")
        while True:
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:
                self._on_wait("another run waits for its batch of this judge: this one goes on after it")
                await asyncio.sleep(self._poll_s)
        try:
            yield
        finally:
            lock.release()

    def _missing(self, requests: RequestFile) -> array[int]:
        """Return the offsets of the prompts that the cache does not know, each prompt once."""
        missing, seen = array("Q"), set()
        for at, (key, _) in zip(requests.offsets, requests.all(), strict=True):
            short_key = int(key[:16], 16)  # 64 bits of it: a tenth of the memory
            if short_key not in seen and self._client.cached(key) is None:
                seen.add(short_key)
                missing.append(at)
        self._cache.flush()  # ends the read transaction: the next read may be hours away
        return missing

    async def _hand_out(self, key: str, request: JudgeRequest, on_result: OnResult) -> bool:
        """Call `on_result` with the verdict on a request. Return whether there is one."""
        verdict = self._cache.get(key) or self._unkept.get(key) or self._refused.get(key)
        if verdict is not None:
            await self._client.require_readable(verdict)
            on_result(request, judgement(request, verdict))
        return verdict is not None

    def _require_budget(self, requests: RequestFile, missing: array[int]) -> None:
        """Raise ApiError, before anything is written, if judge.max_dollars does not cover all missing prompts."""
        wanted = (requests.at(offset)[1] for offset in missing)
        # bytes and not characters: texts in other scripts have more tokens per character
        sizes = ((len(r.prompt.encode("utf-8", "replace")), bool(r.choices)) for r in wanted)
        self._client.spending.require((size, reply_tokens(self._config, choices)) for size, choices in sizes)

    async def _send(self, requests: RequestFile, missing: array[int]) -> None:
        """Send these prompts in batches, without the fields that this vendor refuses.

        Raises ApiError if it refuses every prompt, and at least judge.max_failures of them.
        """
        tried = ""
        for left_out in LEFT_OUT:
            first = next(self._lines(requests, missing[:1], left_out), "")
            if first == tried or (self._replies > 1 and "n" in left_out):  # one reply per prompt is not enough then
                continue
            tried, self._accepted = first, False
            self._refused.clear()
            for lines in split_into_batches(self._lines(requests, missing, left_out)):
                self._write(lines)
            await self._collect()
            if self._accepted or not self._refused:
                return
        if len(self._refused) >= self._config.max_failures:
            reason = next(iter(self._refused.values())).detail
            raise ApiError(
                f"the vendor refuses all {len(self._refused)} prompts of the batch ({reason}): check judge.model"
            )

    def _lines(self, requests: RequestFile, missing: array[int], left_out: Sequence[str]) -> Iterator[str]:
        """Yield one RequestRow per prompt, as JSON."""
        for key, request in map(requests.at, missing):
            whole = api_request.body(self._config, request.prompt, request.choices)
            body = {name: value for name, value in whole.items() if name not in left_out}
            row = {"custom_id": key, "method": "POST", "url": f"/v1{PATH}", "body": body}
            yield json.dumps({**row, "choices": list(request.choices)}) + "\n"

    def _write(self, lines: list[str]) -> None:
        """Write the folder of one batch."""
        text = "".join(lines)
        folder = self._folder / hashlib.sha256(text.encode()).hexdigest()[:20]
        folder.mkdir(exist_ok=True)
        write_atomic(folder / "requests.jsonl", text)
        save_state(folder, {"stage": "written", "name": uuid4().hex})

    async def _collect(self) -> None:
        """Send the batches on disk that are not sent yet, wait for all batches, and keep their results."""
        folders = sorted(p.parent for p in self._folder.glob("*/state.json"))
        await asyncio.gather(*(self._follow(folder) for folder in folders))

    async def _follow(self, folder: Path) -> None:
        """Take one batch from its stage on disk to its results, then remove its folder."""
        state = read_state(folder)
        if state["stage"] == "written":
            state = save_state(folder, {**state, "stage": "creating", "file": await self._upload(folder)})
        if state["stage"] == "creating":
            created = await self._create(state.get("name", folder.name), state["file"])
            state = save_state(folder, {**state, "stage": "sent", "batch": created})
        try:
            batch = await self._wait(state["batch"])
            if batch["status"] != "failed":
                async with self._loading:
                    await self._keep(folder, batch)
        except _GoneError as error:
            raise ApiError(
                f"batch {state['batch']} cannot be read at {self._config.base_url} ({error}): check the key; if the "
                f"batch is gone for good, delete {folder} and run again, and its prompts are sent again"
            ) from error
        shutil.rmtree(folder)
        if batch["status"] == "failed":
            raise ApiError(f"the judge's batch failed: {short(json.dumps(batch.get('errors')))}")

    async def _upload(self, folder: Path) -> str:
        """Upload the requests. Return the file's id at the vendor."""
        async with self._loading:
            sent = b"".join(line_to_send(row) for row in read_rows(folder))
            self.calls += sent.count(b"\n")
            reply = await self._client.http.upload("/files", {"purpose": "batch"}, "judge.jsonl", sent)
        return str(_json(reply, "the upload")["id"])

    async def _create(self, name: str, file: str) -> str:
        """Create the batch, unless an earlier try did so after all. Return its id.

        A name is used once: after a batch that failed or expired, the same prompts are a batch with another name.
        """
        listed = _json(await self._client.http.get("/batches?limit=100"), "the list of batches")
        for batch in listed.get("data", []):
            if (batch.get("metadata") or {}).get("em") == name:
                return str(batch["id"])
        body: VendorObject = {"input_file_id": file, "endpoint": f"/v1{PATH}", "completion_window": "24h"}
        body |= {"metadata": {"em": name}}
        reply = await self._client.http.post("/batches", api_request.encode(body), retry=False)
        return str(_json(reply, "making the batch")["id"])

    async def _get(self, path: str, file: bool = False) -> Reply:
        """Read a batch or a file. Raises _GoneError if the vendor says that it does not exist for this key."""
        try:
            reply = await self._client.http.get(path, file)
        except ApiError as error:
            raise _GoneError(str(error)) from error
        if reply.body is None and not reply.transient:
            raise _GoneError(reply.detail)
        return reply

    async def _wait(self, name: str) -> VendorObject:
        """Return the batch of this id when it has ended."""
        heard = time.monotonic()
        while True:
            reply = await self._get(f"/batches/{name}")
            if reply.body is None and time.monotonic() - heard < OUTAGE_S:
                self._on_wait(f"the vendor gives no news of the batch ({reply.detail}): asked again")
                await asyncio.sleep(self._poll_s)
                continue
            heard = time.monotonic()
            batch = _json(reply, "the state of the batch")
            self._report_state(name, batch)
            if batch["status"] in ENDED:
                return batch
            await asyncio.sleep(self._poll_s)

    def _report_state(self, name: str, batch: VendorObject) -> None:
        """Report the states of all batches if this one has changed."""
        counts = batch.get("request_counts") or {}
        state = (str(batch["status"]), int(counts.get("completed") or 0), int(counts.get("total") or 0))
        if self._states.get(name) != state:
            self._states[name] = state
            statuses, done, total = zip(*self._states.values(), strict=True)
            parts = ", ".join(f"{count} {status}" for status, count in sorted(Counter(statuses).items()))
            self._on_wait(f"batches at the vendor: {parts}; prompts answered: {sum(done)} of {sum(total)}")

    async def _keep(self, folder: Path, batch: VendorObject) -> None:
        """Put every verdict of a batch into the cache, if its key is one of this folder's requests."""
        sent = {
            row["custom_id"]: (len(row["body"]["messages"][0]["content"]), tuple(row["choices"]))
            for row in read_rows(folder)
        }
        for name in ("output_file_id", "error_file_id"):
            if not batch.get(name):
                continue
            reply = await self._get(f"/files/{batch[name]}/content", file=True)
            if reply.body is None:
                raise ApiError(f"the results of the judge's batch could not be read: {reply.detail}")
            for line in reply.body.splitlines():
                self._keep_line(line, sent)
        self._cache.flush()

    def _keep_line(self, line: bytes, sent: dict[str, tuple[int, tuple[str, ...]]]) -> None:
        """Keep the verdict in one line of the results. `sent`: key → characters of the prompt, labels."""
        try:
            row = json.loads(line)
            key, response = row["custom_id"], row.get("response") or {}
            chars, choices = sent[key]
            status, body = response.get("status_code"), json.dumps(response.get("body")).encode()
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # not one of our requests. A prompt without a result is reported at the end
        if type(status) is not int:
            return
        parsed = api_request.parse_reply(Reply(body) if status == 200 else self._client.http.failure(status, body))
        verdict = parsed if isinstance(parsed, Verdict) else self._verdict(parsed, choices)
        if status == 200:  # a broken answer costs money, too
            usage = {} if isinstance(parsed, Verdict) else parsed.usage
            self._client.spending.count(chars, usage, reply_tokens(self._config, bool(choices)))
        self._accepted |= status not in (400, 422) or verdict.outcome != Outcome.error
        if verdict.outcome == Outcome.error:
            if status < 500 and status not in (408, 429):
                self._refused[key] = verdict
        elif self._client.cached(key) is None and not self._client.keep(key, verdict):
            self._unkept[key] = verdict

    def _verdict(self, reply: api_request.ParsedReply, choices: tuple[str, ...]) -> Verdict:
        if len(reply.found) < self._replies:  # JudgeClient would request the others
            problem = f"the batch brought {len(reply.found)} of {self._replies} replies a prompt"
            return api_request.error_verdict(f"{problem}: set judge.batch=false, or judge.score=text")
        return api_request.verdict(self._config, reply.found[: self._replies], reply.finish, choices)


class _GoneError(Exception):
    """A batch or a file does not exist for this API key."""


def _json(reply: Reply, what: str) -> VendorObject:
    """Return the JSON object in a reply. Raises ApiError without one. `what`: the request in words."""
    try:
        found = json.loads(reply.body or b"")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ApiError(f"judge.batch: {what} failed ({reply.detail or 'no JSON came back'}): run again")
    return found
