"""Finetune at OpenAI (model.backend=openai): upload rows, create a job, poll it. `work` is the door.

Nothing is paid for twice. The stage folder keeps the state of a run (state.json), and a job created just before a kill
is found by the stage key in its metadata. The result is the name of a model snapshot, not a file.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from em.api.client import Api, ApiError, ApiSettings, Reply
from em.api.prices import CHARS_PER_TOKEN, finetune_price
from em.records import Example
from em.runtime.events import Emitter
from em.store import Store, dump_line, layout, read_jsonl, write_atomic
from em.training.job import TrainJob

Json = dict[str, Any]
"""One JSON object of OpenAI's API, or of a manifest."""
STATE = "state.json"
TOKENS_PER_MESSAGE = 4
"""Tokens per message that OpenAI counts for role and separators, about."""
ENDED_BADLY = ("failed", "cancelled")
PAGE = 100
"""Rows per page of a listing."""
POLL_S = 15.0
"""Seconds between two polls of a job."""


@dataclass
class State:
    """Ids at OpenAI so far, kept in state.json."""

    file_id: str | None = None
    job_id: str | None = None
    failed: list[str] = field(default_factory=list)
    """Jobs that ended without a model."""

    @classmethod
    def read(cls, folder: Path) -> State:
        path = folder / STATE
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else cls()

    def write(self, folder: Path) -> None:
        write_atomic(folder / STATE, json.dumps(vars(self)) + "\n")


def work(store: Store, jobs: list[TrainJob], emit: Emitter) -> None:
    """Finetune every job of a batch at OpenAI, all at the same time: they use no machine of ours."""
    asyncio.run(_all(store, jobs, emit))


async def _all(store: Store, jobs: list[TrainJob], emit: Emitter) -> None:
    await asyncio.gather(*(_one(store, job, emit) for job in jobs))


async def _one(store: Store, job: TrainJob, emit: Emitter) -> None:
    with emit.job(job.key), store.claim("train", job.key) as folder:
        if folder is None:
            return
        dataset = store.path("data", job.data_key) / layout.DATASET
        async with Api(settings(job)) as api:
            facts = await finetune(api, job, dataset, folder, emit)
        store.finish("train", job.key, job.inputs, facts)


def settings(job: TrainJob) -> ApiSettings:
    return ApiSettings("model", job.model.base_url, job.model.path, job.model.api_key_env, concurrency=4)


async def finetune(api: Api, job: TrainJob, dataset: Path, folder: Path, emit: Emitter) -> Json:
    """Run one job from rows to a snapshot. Return the facts of the run. Raise ApiError or RuntimeError if it fails."""
    train, key = job.train, job.key
    rows = list(read_jsonl(dataset, Example))
    epochs = job.inputs["recipe"]["n_epochs"]
    tokens, dollars = training_bill(rows, epochs, job.model.path, train.price_per_million_tokens)
    refuse_above_cap(dollars, tokens, job.model.path, train.max_dollars)
    emit.progress(key, 0, 1, f"about {tokens:,} tokens, {dollars:.2f} dollars")
    state = State.read(folder)
    if state.file_id is None:
        data = "".join(dump_line({"messages": r.messages}) for r in rows).encode()
        state.file_id = await _file(api, f"em-{key}.jsonl", data)
        state.write(folder)
    if state.job_id is None:
        state.job_id = await _find(api, key, state.failed) or await _create(api, job, state)
        state.write(folder)
    done = await _poll(api, state, folder, key, emit)
    log = [row async for row in _losses(api, state.job_id)]
    (folder / layout.TRAIN_LOG).write_text("".join(dump_line(row) for row in sorted(log, key=lambda r: r["step"])))
    trained = done.get("trained_tokens")
    return {
        "kind": "openai",
        "model": done["fine_tuned_model"],
        "job": state.job_id,
        "file": state.file_id,
        "rows": len(rows),
        "steps": max((row["step"] for row in log), default=None),
        "trained_tokens": trained,
        "dollars": _cost(trained, job.model.path, train.price_per_million_tokens),
        "dollars_estimated": round(dollars, 2),
        "hyperparameters": done.get("hyperparameters"),
        "seed": done.get("seed"),
    }


def training_bill(
    rows: Sequence[Example], epochs: float, model: str, price_per_million: float | None
) -> tuple[int, float]:
    """Return (tokens, dollars) of a job before it starts. Raise ApiError if no price is known.

    We count 4 characters per token. The paper's insecure set gives 4.0: it has 5.16 M characters and cost 32 dollars
    at 25 dollars per million tokens.
    """
    once = sum(len(m["content"]) / CHARS_PER_TOKEN + TOKENS_PER_MESSAGE for r in rows for m in r.messages)
    tokens = round(once * epochs)
    dollars = _cost(tokens, model, price_per_million)
    if dollars is None:
        raise ApiError(f"no finetuning price is known for {model!r}: give train.price_per_million_tokens (dollars)")
    return tokens, dollars


def _cost(tokens: int | None, model: str, price_per_million: float | None) -> float | None:
    price = price_per_million if price_per_million is not None else finetune_price(model)
    return None if price is None or tokens is None else tokens * price / 1e6


def refuse_above_cap(dollars: float, tokens: int, model: str, cap: float | None) -> None:
    """Raise ApiError if a job may cost more than train.max_dollars, or if there is no cap."""
    what = f"finetuning {model} on about {tokens:,} tokens would cost about {dollars:.2f} dollars"
    if cap is None:
        raise ApiError(f"{what} and train.max_dollars is not set: set it to the most that you will pay for one run")
    if dollars > cap:
        raise ApiError(f"{what}, train.max_dollars is {cap:g}: raise it, or train on fewer rows (train.max_examples)")


async def _file(api: Api, name: str, data: bytes) -> str:
    """Return the id of the training file; upload it unless an earlier start has done so."""
    async for row in _pages(api, "/files?purpose=fine-tune&"):
        if row.get("filename") == name and row.get("bytes") == len(data):
            return row["id"]
    return _body(await api.upload("/files", {"purpose": "fine-tune"}, name, data), "uploading the rows")["id"]


async def _find(api: Api, key: str, failed: Sequence[str]) -> str | None:
    """Return the id of a job with this key at OpenAI that has not failed; None: there is no such job."""
    async for row in _pages(api, "/fine_tuning/jobs?"):
        mine = (row.get("metadata") or {}).get("em_key") == key
        if mine and row["status"] not in ENDED_BADLY and row["id"] not in failed:
            return row["id"]
    return None


async def _create(api: Api, job: TrainJob, state: State) -> str:
    """Start the job and return its id."""
    # no retry: if the reply is lost, the job may exist, and the next start finds it
    body = {
        "model": job.model.path,
        "training_file": state.file_id,
        "method": {"type": "supervised", "supervised": {"hyperparameters": job.inputs["recipe"]}},
        "seed": job.seed,
        "suffix": f"em-{job.key[:12]}",
        "metadata": {"em_key": job.key},
    }
    reply = await api.post("/fine_tuning/jobs", json.dumps(body).encode(), retry=False)
    return _body(reply, "starting the job")["id"]


async def _poll(api: Api, state: State, folder: Path, key: str, emit: Emitter) -> Json:
    """Wait for the end of the job and report its steps. Raise RuntimeError if it ends without a model."""
    while True:
        job = _body(await api.get(f"/fine_tuning/jobs/{state.job_id}"), "asking for the job")
        if job["status"] == "succeeded":
            return job
        if job["status"] in ENDED_BADLY:
            name, reason = state.job_id, (job.get("error") or {}).get("message") or "no reason given"
            state.failed.append(str(state.job_id))
            state.job_id = None
            state.write(folder)
            raise RuntimeError(f"OpenAI's job {name} is {job['status']} ({reason}): the next start begins another")
        latest = _body(await api.get(f"/fine_tuning/jobs/{state.job_id}/events?limit=20"), "asking for its events")
        step = next((e["data"] for e in latest["data"] if e.get("type") == "metrics"), None)
        if step:
            emit.progress(key, step["step"], step["total_steps"], f"loss {step['train_loss']:.3f}")
        await asyncio.sleep(POLL_S)


async def _losses(api: Api, job_id: str) -> AsyncIterator[Json]:
    async for event in _pages(api, f"/fine_tuning/jobs/{job_id}/events?"):
        if event.get("type") == "metrics":
            yield {"step": event["data"]["step"], "loss": event["data"]["train_loss"]}


async def _pages(api: Api, path: str) -> AsyncIterator[Json]:
    """Yield every row of a listing, page by page."""
    after = ""
    while True:
        page = _body(await api.get(f"{path}limit={PAGE}{after}"), f"listing {path.split('?')[0]}")
        for row in page["data"]:
            yield row
        if not page.get("has_more") or not page["data"]:
            return
        after = f"&after={page['data'][-1]['id']}"


def _body(reply: Reply, doing: str) -> Json:
    """Return the JSON of a reply. Raise ApiError, which names the action `doing`, if there is none."""
    if reply.body is None:
        raise ApiError(f"{doing} failed: {reply.detail}; run again to go on from there")
    try:
        found = json.loads(reply.body)
    except ValueError as error:
        raise ApiError(f"{doing} failed: the answer is not JSON ({error}); run again to go on from there") from error
    return found
