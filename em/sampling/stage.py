"""Sample answers: questions × n → completions, with one engine for all adapters of a base model. `work` is the door.

Every model passes the gates (sampling/gating.py) before its first answer is sampled.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from em.config import ModelConfig
from em.directions.job import Changes
from em.errors import UserError
from em.gates.record import GateError
from em.models import paths
from em.runtime.events import Emitter, error_message
from em.runtime.progress import SHOW_EVERY_S, WHOLE_BATCH
from em.sampling import changing, gating
from em.sampling.engine import RefusedError, Sampler
from em.sampling.engines.open import open_sampler
from em.sampling.job import SampleJob
from em.sampling.rows import JobRows, claim_rows, prompts_of_job, wanted_tokens
from em.store import Store


def work(store: Store, jobs: list[SampleJob], emit: Emitter) -> None:
    """Sample the answers of all jobs with one engine and one queue, adapter by adapter, so that few are active."""
    todo = sorted(jobs, key=lambda j: (j.adapter_key or "", j.step or 0, j.key))
    with ExitStack() as stack:
        claimed = [rows for rows in (claim_rows(job, store, stack, emit) for job in todo) if rows]
        if not claimed:
            return
        try:
            rank, modules = max(j.max_lora_rank for j in todo), {m for j in todo for m in j.target_modules}
            steered = any(job.changes.hooked for job in todo)
            engine = engine_model(todo[0], store)
            sampler = open_sampler(engine, todo[0].sample, rank, sorted(modules), steered=steered)
            emit.count("model_loads")
            emit.count("engine_starts")
            prompts_of = prompts_of_job(sampler.tokenizer)
            ready = [rows for rows in claimed if rows.prepare(prompts_of, store)]
            _warn_of_short_answers(ready, emit)
            for changes, group in changing.by_change(pass_gates(sampler, ready, store)):
                _sample_changed(sampler, changes, group, store=store, emit=emit)
        except Exception as error:  # noqa: BLE001  the engine is gone: every job that it still had fails by name
            traceback.print_exc()
            for rows in claimed:
                rows.fail(error_message(error))


def _sample_changed(sampler: Sampler, changes: Changes, group: list[JobRows], *, store: Store, emit: Emitter) -> None:
    """Sample the jobs that share a change of the engine. They fail if the engine does not make it as transformers
    does."""
    try:
        with changing.changed(sampler, changes, store, group[0].job.model.max_model_len) as facts:
            for rows in group:
                rows.changed = facts
            sample_rows(sampler, group, store, emit)
    except (GateError, UserError) as error:
        for rows in group:
            rows.fail(error_message(error))


def _warn_of_short_answers(jobs: list[JobRows], emit: Emitter) -> None:
    """Warn once per engine if a long prompt leaves an answer less room than the config allows."""
    cut = [r for rows in jobs for r in rows.missing if r.max_tokens < wanted_tokens(rows.job.sample, r.question)]
    if not cut:
        return
    questions = len({r.question.id for r in cut})
    least = min(cut, key=lambda r: r.max_tokens)
    job = next(rows.job for rows in jobs if rows.job.key == least.job)
    emit.warn(
        f"model.max_model_len={job.model.max_model_len} must hold a prompt and its answer. {questions} question(s) "
        f"leave the answer less than sample.max_tokens={job.sample.max_tokens} (or their own minimum): "
        f"{least.question.id} leaves {least.max_tokens} tokens. Raise model.max_model_len, or lower sample.max_tokens"
    )


def pass_gates(sampler: Sampler, jobs: list[JobRows], store: Store) -> list[JobRows]:
    """Return the jobs whose model passes the gates; report the others as failed with the gate's error."""
    if not jobs:
        return []
    models = {rows: served_model(rows.job, store, rows.adapter, rows.stops) for rows in jobs}
    distinct, began = list(dict.fromkeys(models.values())), time.monotonic()
    found = gating.check(sampler, distinct, jobs[0].job.model.max_model_len)
    each = round((time.monotonic() - began) / len(distinct), 3)
    for rows, model in models.items():
        outcome = found[model]
        if isinstance(outcome, GateError):
            rows.fail(str(outcome))
        else:
            rows.gate = outcome | {"wall_s": each}
    finished = {model: rows.emit for rows, model in models.items() if rows.job.step is None and rows.gate}
    for model, emit in finished.items():
        facts = found[model]
        if not isinstance(facts, GateError) and facts.get("told_from_base") is False:
            emit.warn(_weak(model.name, facts))
    return [rows for rows in jobs if not rows.ended]


def _weak(name: str, facts: gating.Facts) -> str:
    """Return the warning for a finished adapter whose effect may be rounding alone."""
    return (
        f"{name} hardly differs from its base model: training moved the log-probabilities of {facts['tokens']} tokens "
        f"by {facts['rms_adapter_to_base']:.2g} nats rms, which may be rounding. That the engine serves it cannot be "
        f"checked beyond its files. If it should differ, train longer or with a higher train.learning_rate"
    )


def served_model(job: SampleJob, store: Store, adapter: Path | None, stops: Sequence[int]) -> gating.ServedModel:
    """Return the model of a job as the gates take it. `stops`: tokens that end its answers."""
    if job.at_openai or job.weights(store) is None:  # there are no weights to compare with
        return gating.ServedModel("the untouched base model", None, None)
    kind = "model" if job.whole_model else "adapter"
    name = f"{kind} {job.label.rsplit(': ', 1)[0]}"
    return gating.ServedModel(name, adapter, job.gate(store), tuple(stops))


def engine_model(job: SampleJob, store: Store) -> ModelConfig:
    """Return the model that the engine loads, with `path` a folder, a hub id, or the name of a snapshot at OpenAI."""
    if job.at_openai:
        tuned = store.manifest("train", job.adapter_key)["facts"]["model"] if job.adapter_key else job.model.path
        return replace(job.model, path=tuned)
    if job.whole_model:
        return replace(job.model, path=str(job.weights(store)), revision=None)
    return replace(job.model, path=paths.model_path(job.model.path))


def sample_rows(sampler: Sampler, jobs: list[JobRows], store: Store, emit: Emitter) -> None:
    """Sample all missing rows in one queue and seal each job after its last row."""
    owners = {rows.job.key: rows for rows in jobs}
    total = sum(len(rows.order) for rows in jobs)
    done = total - sum(len(rows.missing) for rows in jobs)
    emit.progress(WHOLE_BATCH, done, total)
    began = shown = time.monotonic()
    tokens = 0
    for rows in jobs:  # a job without missing rows may still need its scores and its seal
        rows.score(sampler)
        rows.seal_if_complete(store)
    for request, answer in sampler.generate(r for rows in jobs for r in rows.missing):
        owner = owners[request.job]
        if isinstance(answer, RefusedError):
            owner.fail(str(answer))
            continue
        owner.add(request, answer)
        done, tokens, now = done + 1, tokens + answer.token_count, time.monotonic()
        if done == total or now - shown > SHOW_EVERY_S:
            shown = now
            emit.progress(WHOLE_BATCH, done, total)
        owner.seal_if_complete(store, tokens / (now - began))
