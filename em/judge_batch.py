"""Judging through a vendor's batch API: half the price, an answer within a day.

All prompts are written to a file, the file is uploaded, a batch is made of it, polled, and its results go into the same
cache as any judgement. What was sent is remembered on disk before it is sent, so that a run that was killed goes on
waiting for its batch instead of paying for a second one:

    <store>/judge_batches/<digest>/requests.jsonl    one request a line, custom_id = key in the cache
    <store>/judge_batches/<digest>/state.json        stage of the batch, its name in the vendor's list, and its ids
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock

from em import judge_request
from em.judge_cache import JudgeCache, Verdict
from em.judge_client import PATH, JudgeClient, JudgeRequest, Listed, OnResult, Source, judgement
from em.judge_price import reply_tokens
from em.records import Outcome
from em.schema.judge import JudgeConfig, ScoreMethod
from em.store import write_atomic
from em.transport import ApiError, Reply, short

MAX_REQUESTS = 50_000
MAX_BYTES = 150_000_000
"""Of one batch; OpenAI's limits are 50,000 requests and 200 MB."""
ENDED = {"completed", "expired", "cancelled", "failed"}
POLL_S = 30.0


class BatchClient:
    """The same interface as JudgeClient. Nothing is asked before the source is at its end."""

    def __init__(self, config: JudgeConfig, cache: JudgeCache, folder: Path, poll_s: float = POLL_S) -> None:
        self._client = JudgeClient(config, cache)  # for its keys, its purse and its way to the API
        self._config, self._cache, self._poll_s = config, cache, poll_s
        self._folder = folder / hashlib.sha256(json.dumps(self._client.identity).encode()).hexdigest()[:20]
        self._replies = config.samples if config.score == ScoreMethod.sampled else 1
        self.cache_hits = 0
        self.calls = 0
        """Prompts sent in batches by this run."""
        self._refused: dict[str, Verdict] = {}
        """Key → the error that a prompt was answered with: to send it again would bring the same."""

    async def grade(self, source: Source | Iterable[JudgeRequest], on_result: OnResult) -> None:
        """Judge every request. Raises ApiError when a batch fails, or leaves prompts unanswered: run again, what came
        back is kept and only the rest is asked."""
        feed: Source = Listed(source) if isinstance(source, Iterable) else source
        wanted: dict[str, list[JudgeRequest]] = {}
        while (request := await feed.get()) is not None:
            wanted.setdefault(self._client.key(request), []).append(request)
        self._folder.mkdir(parents=True, exist_ok=True)
        async with self._client.api:
            with FileLock(self._folder / "lock"):
                await self._collect()  # of an earlier run
                missing = {key: rows[0] for key, rows in wanted.items() if self._cache.get(key) is None}
                self.cache_hits += sum(map(len, wanted.values())) - len(missing)
                self._reserve(missing)
                for lines in _parts(self._lines(missing)):
                    self._remember(lines)
                await self._collect()
        lost = 0
        for key, rows in wanted.items():
            verdict = self._cache.get(key) or self._refused.get(key)
            lost += len(rows) if verdict is None else 0
            for request in rows if verdict else ():
                on_result(request, judgement(request, verdict))
        if lost:
            raise ApiError(f"{lost} judgements are not in what the batch brought back: run again, only they are asked")

    def _reserve(self, missing: dict[str, JudgeRequest]) -> None:
        """Raise before anything is written when the purse does not hold all of it."""
        self._client.purse.require(
            (len(request.prompt), reply_tokens(self._config, bool(request.choices))) for request in missing.values()
        )

    def _lines(self, missing: dict[str, JudgeRequest]) -> Iterable[str]:
        """One line a prompt."""
        for key, request in missing.items():
            body = judge_request.body(self._config, request.prompt, request.choices)
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
            rows = [json.loads(line) for line in (folder / "requests.jsonl").read_text(encoding="ascii").splitlines()]
            self.calls += len(rows)
            sent = "".join(json.dumps({k: v for k, v in row.items() if k != "choices"}) + "\n" for row in rows)
            reply = await self._client.api.upload("/files", {"purpose": "batch"}, "judge.jsonl", sent.encode("ascii"))
            state = _save(folder, {**state, "stage": "creating", "file": _json(reply, "the upload")["id"]})
        if state["stage"] == "creating":
            batch = await self._create(state.get("name", folder.name), state["file"])
            state = _save(folder, {**state, "stage": "sent", "batch": batch})
        batch = await self._wait(state["batch"])
        if batch["status"] == "failed":
            shutil.rmtree(folder)
            raise ApiError(f"the judge's batch failed: {short(json.dumps(batch.get('errors')))}")
        await self._keep(folder, batch)
        shutil.rmtree(folder)

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
        reply = await self._client.api.post("/batches", judge_request.encode(body), retry=False)
        return _json(reply, "making the batch")["id"]

    async def _wait(self, name: str) -> dict[str, Any]:
        while True:
            batch = _json(await self._client.api.get(f"/batches/{name}"), "the state of the batch")
            if batch["status"] in ENDED:
                return batch
            await asyncio.sleep(self._poll_s)

    async def _keep(self, folder: Path, batch: dict[str, Any]) -> None:
        """Put every verdict of a batch into the cache, under the keys this folder asked for and no other."""
        asked = {}
        for line in (folder / "requests.jsonl").read_text(encoding="ascii").splitlines():
            row = json.loads(line)
            asked[row["custom_id"]] = (row["body"]["messages"][0]["content"], tuple(row["choices"]))
        for name in ("output_file_id", "error_file_id"):
            if not batch.get(name):
                continue
            reply = await self._client.api.get(f"/files/{batch[name]}/content")
            if reply.body is None:
                raise ApiError(f"the results of the judge's batch could not be read: {reply.detail}")
            for line in reply.body.splitlines():
                self._keep_line(line, asked)
        self._cache.flush()

    def _keep_line(self, line: bytes, asked: dict[str, tuple[str, tuple[str, ...]]]) -> None:
        try:
            row = json.loads(line)
            key, response = row["custom_id"], row.get("response") or {}
            prompt, choices = asked[key]
            status, body = response.get("status_code"), json.dumps(response.get("body")).encode()
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # no line of ours: its prompt stays unanswered, and that is said at the end
        if type(status) is not int:
            return
        got = judge_request.opened(Reply(body) if status == 200 else self._client.api.failure(status, body))
        verdict = got if isinstance(got, Verdict) else self._verdict(got, choices)
        if not isinstance(got, Verdict):
            self._client.purse.count(len(prompt), got.usage, reply_tokens(self._config, bool(choices)))
        if verdict.outcome == Outcome.error:
            if status < 500 and status not in (408, 429):
                self._refused[key] = verdict
        elif self._cache.get(key) is None:
            self._cache.put(key, verdict)

    def _verdict(self, got: judge_request.Opened, choices: tuple[str, ...]) -> Verdict:
        if len(got.found) < self._replies:  # a single request would ask for the rest
            said = f"the batch brought {len(got.found)} of {self._replies} replies a prompt"
            return judge_request.failed(f"{said}: set judge.batch=false, or judge.score=text")
        return judge_request.verdict(self._config, got.found[: self._replies], got.finish, choices)


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
