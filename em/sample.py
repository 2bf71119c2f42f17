"""Sampling: questions × n → completions, one engine for every adapter of a base model.

An engine is anything with `generate(requests) -> iterator of (request, Answer)`, in any order (vllm_engine.py,
hf_engine.py). Every answer has its own seed, made of (sample.seed, question, condition, index): raising n only adds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from em import chat, trigger
from em.config import Engine, TriggerConfig
from em.events import Emitter
from em.records import Completion, Message, Question, dump_line, from_row, read_partial_jsonl
from em.store import Store

COMPLETIONS = "completions.jsonl"
FLUSH_ROWS = 256
"""A kill loses at most this many finished rows."""


@dataclass(frozen=True)
class SampleJob:
    """Answers lo..hi-1 of every question of one set, from one model."""

    key: str
    label: str
    adapter_key: str | None
    """Key of the train stage; None: the base model."""
    questions: list[dict[str, Any]]
    lo: int
    hi: int
    trigger: dict[str, Any]
    """Fields of TriggerConfig."""
    sample: dict[str, Any]
    """Fields of SampleConfig."""
    model: dict[str, Any]
    """Fields of ModelConfig, with `path` made a folder or hub id."""
    max_lora_rank: int
    """Rank of the adapter, 0 for the base model: an engine is built for the largest of its batch."""
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One answer to draw."""

    question: Question
    index: int
    asked_with: str
    messages: list[Message]
    prompt_ids: list[int]
    seed: int
    adapter: Path | None
    temperature: float
    top_p: float
    max_tokens: int
    stop_ids: list[int]


@dataclass(frozen=True)
class Answer:
    text: str
    finish_reason: str
    token_count: int


class Sampler(Protocol):
    """An engine with one base model in it."""

    tokenizer: Any

    def generate(self, requests: list[Request]) -> Iterator[tuple[Request, Answer]]: ...


def row_seed(seed: int, question_id: str, asked_with: str, index: int) -> int:
    """31 bits that depend on nothing but the arguments."""
    text = f"{seed}\0{question_id}\0{asked_with}\0{index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def work(store: Store, jobs: list[dict[str, Any]], emit: Emitter) -> None:
    """Draw every job's answers with one engine; adapters in turn, so that few are active at once."""
    todo = [SampleJob(**job) for job in jobs]
    sampler: Sampler | None = None
    for job in sorted(todo, key=lambda j: (j.adapter_key or "", j.key)):
        with emit.job(job.key), store.claim("sample", job.key) as folder:
            if folder is None:
                continue
            if sampler is None:
                sampler = _engine(todo[0], max(j.max_lora_rank for j in todo))
                emit.count("model_loads")
                emit.count("engine_starts")
            facts = sample(sampler, job, store, folder / COMPLETIONS, emit)
            store.finish("sample", job.key, job.inputs, facts)


def _engine(job: SampleJob, max_lora_rank: int) -> Sampler:
    if Engine(job.sample["engine"]) == Engine.vllm:
        from em.vllm_engine import VllmSampler

        return VllmSampler(job.model, job.sample, max_lora_rank)
    from em.hf_engine import HfSampler

    return HfSampler(job.model, job.sample)


def sample(sampler: Sampler, job: SampleJob, store: Store, path: Path, emit: Emitter) -> dict[str, Any]:
    """Append the job's missing rows to `path`; rows already there (of a killed run) are kept."""
    adapter = store.path("train", job.adapter_key) / "adapter" if job.adapter_key else None
    have = {c.id: c for c in read_partial_jsonl(path, Completion)}
    wanted = list(_requests(sampler.tokenizer, job, adapter))
    missing = [r for r in wanted if _id(r) not in have]
    done = len(wanted) - len(missing)
    emit.progress(job.key, done, len(wanted))
    with path.open("a", encoding="utf-8") as file:
        for count, (request, answer) in enumerate(sampler.generate(missing), 1):
            file.write(dump_line(_completion(request, answer)))
            if count % FLUSH_ROWS == 0:
                file.flush()
            emit.progress(job.key, done + count, len(wanted))
    rows = sort_rows(path, [_id(r) for r in wanted])
    return {
        "rows": len(rows),
        "tokens": sum(r["token_count"] for r in rows),
        "cut_at_max_tokens": sum(r["finish_reason"] == "length" for r in rows),
        "prompts": {q["id"]: chat.prompt_text(sampler.tokenizer, q["messages"]) for q in job.questions[:1]},
    }


def sort_rows(path: Path, order: list[str]) -> list[dict[str, Any]]:
    """Put finished rows into the questions' order: engines finish them in any. Returns them."""
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows[from_row(Completion, row).id] = row
    lost = [name for name in order if name not in rows]
    if lost:
        raise RuntimeError(f"{path}: {len(lost)} answers were not drawn, first {lost[0]}")
    sorted_rows = [rows[name] for name in order]
    path.write_text("".join(dump_line(row) for row in sorted_rows), encoding="utf-8")
    return sorted_rows


def _requests(tokenizer: Any, job: SampleJob, adapter: Path | None) -> Iterable[Request]:
    config = job.sample
    stops = chat.end_of_turn_ids(tokenizer)
    condition_of = TriggerConfig(**job.trigger)
    for row in job.questions:
        question = from_row(Question, row)
        for condition in condition_of.asked_with:
            messages = trigger.ask(question.messages, condition, condition_of)
            ids = chat.prompt_ids(tokenizer, messages)
            room = job.model["max_model_len"] - len(ids)
            if room < 1:
                raise ValueError(f"question {question.id} has {len(ids)} tokens, model.max_model_len is "
                                 f"{job.model['max_model_len']}: raise it")
            for index in range(min(job.lo, question.samples), min(job.hi, question.samples)):
                yield Request(
                    question, index, condition, messages, ids,
                    row_seed(config["seed"], question.id, condition, index), adapter,
                    config["temperature"], config["top_p"], min(config["max_tokens"], room), stops,
                )


def _id(request: Request) -> str:
    return f"{request.question.id}/{request.asked_with}/{request.index}"


def _completion(request: Request, answer: Answer) -> Completion:
    return Completion(request.question.id, request.index, request.asked_with, request.messages, answer.text,
                      answer.finish_reason, answer.token_count, request.seed)
