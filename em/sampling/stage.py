"""Sampling: questions × n → completions, one engine for every adapter of a base model.

Engines are behind sampling/engine.py. Before an adapter's first answer is drawn it passes the gates
(sampling/gating.py).
"""

from __future__ import annotations

import time
import traceback
from contextlib import ExitStack
from dataclasses import replace

from em.config import ModelConfig
from em.gates.record import GateError
from em.models import paths
from em.runtime.events import Emitter, sentence
from em.runtime.progress import PROGRESS, SHOW_EVERY_S
from em.sampling import gating
from em.sampling.engine import RefusedError, Sampler
from em.sampling.engines.open import open_sampler
from em.sampling.job import SampleJob
from em.sampling.rows import Drawer, claim_rows, prompts_of_job, wanted_tokens
from em.store import Store


def work(store: Store, jobs: list[SampleJob], emit: Emitter) -> None:
    """Draw every job's answers with one engine and one queue; adapters in turn, so that few are active at once."""
    todo = sorted(jobs, key=lambda j: (j.adapter_key or "", j.step or 0, j.key))
    with ExitStack() as stack:
        drawers = [d for d in (claim_rows(job, store, stack, emit) for job in todo) if d]
        if not drawers:
            return
        try:
            sampler = open_sampler(_model(todo[0], store), todo[0].sample, max(j.max_lora_rank for j in todo))
            emit.count("model_loads")
            emit.count("engine_starts")
            prompts_of = prompts_of_job(sampler.tokenizer)
            ready = [d for d in drawers if d.prepare(prompts_of, store)]
            _tell_cut(ready, emit)
            _draw(sampler, _gated(sampler, ready, store), store, emit)
        except Exception as error:  # noqa: BLE001  the engine is gone: every job it still had fails by name
            traceback.print_exc()
            for drawer in drawers:
                drawer.fail(sentence(error))


def _tell_cut(drawers: list[Drawer], emit: Emitter) -> None:
    """Warn once an engine where answers get less room than asked for, because the prompt leaves no more."""
    cut = [r for d in drawers for r in d.missing if r.max_tokens < wanted_tokens(d.job.sample, r.question)]
    if not cut:
        return
    questions = len({r.question.id for r in cut})
    least = min(cut, key=lambda r: r.max_tokens)
    job = next(d.job for d in drawers if d.job.key == least.job)
    emit.warn(
        f"model.max_model_len={job.model.max_model_len} holds a prompt and its answer: {questions} question(s) "
        f"leave less than sample.max_tokens={job.sample.max_tokens} (or their own least) to the answer, "
        f"{least.question.id} {least.max_tokens} tokens: raise model.max_model_len, or lower sample.max_tokens"
    )


def _gated(sampler: Sampler, drawers: list[Drawer], store: Store) -> list[Drawer]:
    """Those whose model passes the gates; the others fail with the gate's sentence and draw nothing."""
    if not drawers:
        return []
    subjects = {d: _subject(d, store) for d in drawers}
    asked, began = list(dict.fromkeys(subjects.values())), time.monotonic()
    found = gating.check(sampler, asked, drawers[0].job.model.max_model_len)
    each = round((time.monotonic() - began) / len(asked), 3)
    for drawer, subject in subjects.items():
        outcome = found[subject]
        if isinstance(outcome, GateError):
            drawer.fail(str(outcome))
        else:
            drawer.gate = outcome | {"wall_s": each}
    return [d for d in drawers if not d.ended]


def _subject(drawer: Drawer, store: Store) -> gating.ServedModel:
    job = drawer.job
    if job.adapter_key is None or job.at_openai:  # no weights to compare with
        return gating.ServedModel("the untouched base model", None, None)
    kind = "model" if job.whole_model else "adapter"
    name = f"{kind} {job.label.rsplit(': ', 1)[0]}"
    return gating.ServedModel(name, drawer.adapter, job.gate(store), job.step is not None, tuple(drawer.stops))


def _model(job: SampleJob, store: Store) -> ModelConfig:
    """The model that the engine loads, `path` made a folder or hub id: a whole finetuned one takes the base's place."""
    if job.at_openai:
        tuned = store.manifest("train", job.adapter_key)["facts"]["model"] if job.adapter_key else job.model.path
        return replace(job.model, path=tuned)
    if job.whole_model:
        return replace(job.model, path=str(job.weights(store)), revision=None)
    return replace(job.model, path=paths.model_path(job.model.path))


def _draw(sampler: Sampler, drawers: list[Drawer], store: Store, emit: Emitter) -> None:
    owners = {d.job.key: d for d in drawers}
    total, done = sum(len(d.order) for d in drawers), sum(len(d.order) - len(d.missing) for d in drawers)
    emit.progress(PROGRESS, done, total)
    began = shown = time.monotonic()
    tokens = 0
    for drawer in drawers:  # whole already, but for the scores and the sealing
        drawer.score(sampler)
        drawer.finish_if_whole(store)
    for request, answer in sampler.generate(r for d in drawers for r in d.missing):
        owner = owners[request.job]
        if isinstance(answer, RefusedError):
            owner.fail(str(answer))
            continue
        owner.add(request, answer)
        done, tokens, now = done + 1, tokens + answer.token_count, time.monotonic()
        if done == total or now - shown > SHOW_EVERY_S:
            shown = now
            emit.progress(PROGRESS, done, total)
        owner.finish_if_whole(store, tokens / (now - began))
