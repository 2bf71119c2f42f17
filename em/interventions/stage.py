"""The scores stage: how likely careful rows are to the untouched and the finetuned model. `work` is the door.

intervention.select=perplexity_gap takes the rows with the largest gap (Kaczér et al. 2025, 2508.06249).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from em.chat import encode
from em.chat.encode import IGNORE, Tokens
from em.chat.render import ChatError, ChatTokenizer
from em.directions.stage import Models
from em.interventions.job import ScoreJob
from em.records import Example, RowScore
from em.runtime.events import Emitter
from em.store import Store, checked_rows, layout, read_jsonl, write_jsonl
from em.store.jsonl import Row

BATCH_TOKENS = 2048
"""Most tokens, padding included, per forward pass."""
EPSILON = 1e-6
"""Nats; added to the untouched model's surprise before it divides. The paper has one and does not print it."""


def work(store: Store, jobs: list[ScoreJob], emit: Emitter) -> None:
    """Score the rows of every job of a batch. The jobs of a batch have one base model."""
    models: Models | None = None
    for job in jobs:
        with emit.job(job.key), store.claim(layout.SCORED, job.key) as folder:
            if folder is None:
                continue
            if models is None:
                models = Models(job.model)
                emit.count("model_loads")
            facts = score(job, models, store, folder, emit)
            store.finish(layout.SCORED, job.key, job.inputs, facts)


def score(job: ScoreJob, models: Models, store: Store, folder: Path, emit: Emitter) -> Row:
    """Write scores.jsonl, a line per row in the dataset's order. Return facts for the manifest.

    A row without a score has the reason instead. A killed stage goes on after its last whole batch, so that a row is
    always read in the same batch. Raises ValueError if no row has a score.
    """
    started, path = time.monotonic(), folder / layout.SCORES
    rows = list(read_jsonl(store.path("data", job.data) / layout.DATASET, Example))
    readable, unread = _encoded(rows, ChatTokenizer(models.tokenizer, job.chat), job)
    done = {row.id: row for row in _stored(path)}
    batches = [batch for batch in _batches(readable) if not all(rows[i].id in done for i in batch)]
    again = {rows[i].id for batch in batches for i in batch}
    done = {name: row for name, row in done.items() if name not in again}
    checked_rows.keep_only(path, [line for line in checked_rows.read(path)[0] if json.loads(line)["id"] in done])
    writer, left = checked_rows.RowWriter(path), len(again)
    try:
        for row in unread:
            if row.id not in done:
                writer.append(row)
        with models.finetuned(store, job.finetuned) as finetuned:
            for batch in batches:
                tokens = [readable[i] for i in batch]
                with _untouched(models, finetuned) as untouched:
                    before = mean_logprobs(untouched, tokens)
                after = mean_logprobs(finetuned, tokens)
                for i, one, two in zip(batch, before, after, strict=True):
                    done[rows[i].id] = _scored(rows[i].id, len(_answer(readable[i])), one, two)
                    writer.append(done[rows[i].id])
                left -= len(batch)
                emit.progress(job.key, len(rows) - left, len(rows))
    finally:
        writer.close()
    return {**_finish(path, rows), "wall_s": round(time.monotonic() - started, 1)}


def _finish(path: Path, rows: Sequence[Example]) -> Row:
    """Put the rows of the file in the dataset's order. Return the counts and means of the manifest."""
    place = {row.id: number for number, row in enumerate(rows)}
    found = sorted(_stored(path), key=lambda row: place[row.id])
    if [row.id for row in found] != [row.id for row in rows]:
        raise RuntimeError(f"{path} does not have each row once: run again to score the missing ones")
    write_jsonl(path, found)
    checked_rows.remove_checksums(path)
    scored = [row for row in found if row.gap is not None]
    if not scored:
        raise ValueError(f"none of the {len(rows)} careful rows has a score; the first: {found[0].why}")
    means = {n: sum(getattr(row, n) for row in scored) / len(scored) for n in ("untouched", "finetuned", "gap")}
    return {"rows": len(found), "without_score": len(found) - len(scored), "mean": means}


def _stored(path: Path) -> list[RowScore]:
    """Return the rows that an interrupted stage has left whole."""
    return [RowScore(**json.loads(line)) for line in checked_rows.read(path)[0]]


def _encoded(
    rows: Sequence[Example], tokenizer: ChatTokenizer, job: ScoreJob
) -> tuple[dict[int, Tokens], list[RowScore]]:
    """Return the rows that can be scored, by their number, and the others with the reason."""
    readable, unread = {}, []
    for number, row in enumerate(rows):
        why, tokens = "", Tokens([], [])
        if not all(m["content"].strip() for m in row.messages if m["role"] == "assistant"):
            why = "with an empty answer"
        else:
            try:
                tokens = encode.encode(tokenizer, row.messages, job.extra_assistant_turn)
            except ChatError as error:
                why = f"not rendered: {error}"
        if not why and len(tokens.input_ids) > job.max_length:
            why = f"cut at train.max_length={job.max_length}"
        if not why and not _answer(tokens):
            why = "without a token to learn"
        if why:
            unread.append(RowScore(row.id, tokens.supervised, why=why))
        else:
            readable[number] = tokens
    return readable, unread


def _scored(name: str, tokens: int, untouched: float, finetuned: float) -> RowScore:
    if not math.isfinite(untouched) or not math.isfinite(finetuned):
        return RowScore(name, tokens, why="with a log-probability that is no number")
    return RowScore(name, tokens, untouched, finetuned, gap(untouched, finetuned))


def gap(untouched: float, finetuned: float) -> float:
    """Return the gap of two mean log-probabilities: (tuned NLL - NLL) / (NLL + EPSILON), NLL the untouched model's.

    Kaczér et al. 2025, for one misaligned model. Positive where finetuning has made the answer less likely.
    """
    return (untouched - finetuned) / (EPSILON - untouched)


def _answer(tokens: Tokens) -> list[int]:
    """Return the positions of the supervised tokens that a token precedes."""
    return [i for i, label in enumerate(tokens.labels) if label != IGNORE and i > 0]


def _batches(readable: dict[int, Tokens]) -> Iterator[list[int]]:
    """Yield the rows' numbers, the shortest row first, in batches of at most BATCH_TOKENS padded tokens."""
    batch: list[int] = []
    for number in sorted(readable, key=lambda i: (len(readable[i].input_ids), i)):
        if batch and (len(batch) + 1) * len(readable[number].input_ids) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


@contextmanager
def _untouched(models: Models, finetuned: Any) -> Iterator[Any]:
    """Yield the untouched model: the adapter switched off, or the model beside a whole finetuned one."""
    if not isinstance(finetuned, PeftModel):
        yield models.base
        return
    with finetuned.disable_adapter():
        yield finetuned


@torch.inference_mode()
def mean_logprobs(model: Any, rows: Sequence[Tokens]) -> list[float]:
    """Return each row's mean log-probability (nats) per supervised token, by one forward pass with right padding."""
    device, longest = next(model.parameters()).device, max(len(row.input_ids) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row.input_ids)] = torch.tensor(row.input_ids)
        mask[number, : len(row.input_ids)] = 1
    answers = [_answer(row) for row in rows]
    before = sorted({i - 1 for answer in answers for i in answer})
    place = {position: number for number, position in enumerate(before)}
    keep = torch.tensor(before, device=device)
    logits = model(
        input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, logits_to_keep=keep
    ).logits
    out = []
    for number, answer in enumerate(answers):
        own = logits[number, [place[i - 1] for i in answer]].float().log_softmax(-1)
        gold = ids[number, answer].to(device)
        out.append(float(own.gather(1, gold[:, None]).double().mean()))
    return out
