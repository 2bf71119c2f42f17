"""Finetuning behind OpenAI's API: upload, create, poll. The second trainer beside training/stage.py
(model.backend=openai).

Nothing is paid for twice: the state of a run lies in its stage folder (`state.json`), and a job that was created in the
moment before a kill is found again at OpenAI by the stage key in its metadata. A run that is stopped goes on there; the
same command picks it up. The result is a model snapshot's name, not a file.
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

STATE = "state.json"
TOKENS_PER_MESSAGE = 4
"""Tokens of role and separators OpenAI counts for a message, about."""
ENDED_BADLY = ("failed", "cancelled")
PAGE = 100
POLL_S = 15.0
"""Seconds between two looks at a job."""


@dataclass
class State:
    """What is known at OpenAI so far."""

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
    """Finetune every job of a batch at OpenAI, side by side: the machines are theirs."""
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


async def finetune(api: Api, job: TrainJob, dataset: Path, folder: Path, emit: Emitter) -> dict[str, Any]:
    """One job from rows to a snapshot. Returns the facts of the run. Raises ApiError, RuntimeError: one sentence."""
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
    (folder / layout.LOG).write_text("".join(dump_line(row) for row in sorted(log, key=lambda r: r["step"])))
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
    """(tokens, dollars) of a job, before it starts: characters over 4, and the epochs. Raises ApiError without a price.

    The paper's insecure set: 5.16 M characters, 32 dollars at 25 a million, so 4.0 characters a token.
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
    """Raises ApiError when a job may cost more than train.max_dollars, or when no cap is given."""
    what = f"finetuning {model} on about {tokens:,} tokens would cost about {dollars:.2f} dollars"
    if cap is None:
        raise ApiError(f"{what} and train.max_dollars is not set: set it to what you are ready to pay for one run")
    if dollars > cap:
        raise ApiError(f"{what}, train.max_dollars is {cap:g}: raise it, or train on fewer rows (train.max_examples)")


async def _file(api: Api, name: str, data: bytes) -> str:
    """Id of the uploaded training file; one that an earlier start has uploaded is taken."""
    async for row in _pages(api, "/files?purpose=fine-tune&"):
        if row.get("filename") == name and row.get("bytes") == len(data):
            return row["id"]
    return _body(await api.upload("/files", {"purpose": "fine-tune"}, name, data), "uploading the rows")["id"]


async def _find(api: Api, key: str, failed: Sequence[str]) -> str | None:
    """A job of this key that OpenAI has and that did not end badly."""
    async for row in _pages(api, "/fine_tuning/jobs?"):
        mine = (row.get("metadata") or {}).get("em_key") == key
        if mine and row["status"] not in ENDED_BADLY and row["id"] not in failed:
            return row["id"]
    return None


async def _create(api: Api, job: TrainJob, state: State) -> str:
    """Start the job. Not retried here: a reply that was lost may have been a job, which the next start finds."""
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


async def _poll(api: Api, state: State, folder: Path, key: str, emit: Emitter) -> dict[str, Any]:
    """Wait for the job's end, telling its steps. Raises RuntimeError when it ends without a model."""
    while True:
        job = _body(await api.get(f"/fine_tuning/jobs/{state.job_id}"), "asking for the job")
        if job["status"] == "succeeded":
            return job
        if job["status"] in ENDED_BADLY:
            name, why = state.job_id, (job.get("error") or {}).get("message") or "no reason given"
            state.failed.append(str(state.job_id))
            state.job_id = None
            state.write(folder)
            raise RuntimeError(f"OpenAI's job {name} is {job['status']} ({why}): the next start begins another")
        latest = _body(await api.get(f"/fine_tuning/jobs/{state.job_id}/events?limit=20"), "asking for its events")
        step = next((e["data"] for e in latest["data"] if e.get("type") == "metrics"), None)
        if step:
            emit.progress(key, step["step"], step["total_steps"], f"loss {step['train_loss']:.3f}")
        await asyncio.sleep(POLL_S)


async def _losses(api: Api, job_id: str) -> AsyncIterator[dict[str, Any]]:
    async for event in _pages(api, f"/fine_tuning/jobs/{job_id}/events?"):
        if event.get("type") == "metrics":
            yield {"step": event["data"]["step"], "loss": event["data"]["train_loss"]}


async def _pages(api: Api, path: str) -> AsyncIterator[dict[str, Any]]:
    """Every row of a listing, page by page."""
    after = ""
    while True:
        page = _body(await api.get(f"{path}limit={PAGE}{after}"), f"listing {path.split('?')[0]}")
        for row in page["data"]:
            yield row
        if not page.get("has_more") or not page["data"]:
            return
        after = f"&after={page['data'][-1]['id']}"


def _body(reply: Reply, doing: str) -> dict[str, Any]:
    """The JSON of a reply. Raises ApiError with what was being done."""
    if reply.body is None:
        raise ApiError(f"{doing} failed: {reply.detail}; run again to go on from there")
    try:
        found = json.loads(reply.body)
    except ValueError as error:
        raise ApiError(f"{doing} failed: the answer is not JSON ({error}); run again to go on from there") from error
    return found
