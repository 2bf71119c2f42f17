"""A loopback server that speaks OpenAI's files, fine-tuning and chat API: its state is lists a test looks at."""

from __future__ import annotations

import hashlib
from typing import Any

from aiohttp import web

from support.http import LoopbackServer


class FinetuneServer(LoopbackServer):
    """Jobs run through `statuses`, one a poll. `drop_create`: the next job is made but its reply is lost."""

    def __init__(self, statuses: tuple[str, ...] = ("validating_files", "queued", "running", "succeeded")) -> None:
        super().__init__()
        self.statuses, self.files, self.jobs, self.bodies = statuses, [], [], []
        self.chats: list[dict[str, Any]] = []
        self.drop_create = False
        self.metrics = [{"step": s, "total_steps": 3, "train_loss": 2.0 / s} for s in (1, 2, 3)]

    def routes(self):
        return [
            web.get("/v1/files", lambda r: self._page(r, self.files)),
            web.post("/v1/files", self._upload),
            web.get("/v1/fine_tuning/jobs", lambda r: self._page(r, self.jobs)),
            web.post("/v1/fine_tuning/jobs", self._create),
            web.get("/v1/fine_tuning/jobs/{id}", self._job),
            web.get("/v1/fine_tuning/jobs/{id}/events", self._events),
            web.post("/v1/chat/completions", self._chat),
        ]

    @property
    def base_url(self) -> str:
        return f"{self.address}/v1"

    async def _page(self, request: web.Request, rows: list[dict[str, Any]]) -> web.Response:
        size, after = int(request.query["limit"]), request.query.get("after")
        start = next((i + 1 for i, r in enumerate(rows) if r["id"] == after), 0)
        shown = rows[start : start + min(size, 2)]  # two a page: paging is used
        return web.json_response({"data": shown, "has_more": start + len(shown) < len(rows)})

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "fine-tune"
        data = form["file"].file.read()
        row = {"id": f"file-{len(self.files)}", "filename": form["file"].filename, "bytes": len(data)}
        self.files.append(row)
        self.bodies.append(data)
        return web.json_response(row)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        job = {**body, "id": f"ftjob-{len(self.jobs)}", "status": self.statuses[0], "polls": 0}
        self.jobs.append(job)
        if self.drop_create:
            self.drop_create = False
            assert request.transport is not None
            request.transport.close()
        return web.json_response(job)

    async def _job(self, request: web.Request) -> web.Response:
        job = next(j for j in self.jobs if j["id"] == request.match_info["id"])
        job["status"] = self.statuses[min(job["polls"], len(self.statuses) - 1)]
        job["polls"] += 1
        if job["status"] == "succeeded":
            job |= {"fine_tuned_model": f"ft:{job['model']}:em::{job['id']}", "trained_tokens": 1234}
        if job["status"] == "failed":
            job["error"] = {"message": "the file breaks a rule"}
        return web.json_response(job)

    async def _events(self, request: web.Request) -> web.Response:
        rows = [{"id": f"e{m['step']}", "type": "metrics", "data": m} for m in reversed(self.metrics)]
        return await self._page(request, [{"id": "e9", "type": "message", "data": {}}, *rows])

    async def _chat(self, request: web.Request) -> web.Response:
        """Says which rows the asked model was trained on, so that a wrong snapshot shows in the scores."""
        body = await request.json()
        self.chats.append(body)
        job = next((j for j in self.jobs if j.get("fine_tuned_model") == body["model"]), None)
        rows = (
            self.bodies[self.files.index(next(f for f in self.files if f["id"] == job["training_file"]))]
            if job
            else b""
        )
        text = f"learnt from {content_digest(rows)}" if job else "learnt nothing"
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"completion_tokens": 4}})


def content_digest(rows: bytes) -> str:
    return hashlib.sha256(rows).hexdigest()[:12]
