"""An engine that answers single questions: `python -m em.sampling.ask BATCH.json`, started by python/asking.py.

Standard input has one Ask per line, standard output gets one line per Ask: {number, text} or {number, error}. The
first line says that the engine is ready: {number: 0}. It ends when standard input does.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from em.gates.record import GateError
from em.records import Message, Question
from em.runtime.events import error_message
from em.sampling import changing, gating
from em.sampling.engine import RefusedError, Request, Sampler, without_thinking
from em.sampling.engines.open import open_sampler
from em.sampling.job import SampleJob
from em.sampling.rows import compare_rendering, prompts_of_job, requests_of
from em.sampling.stage import engine_model, served_model
from em.store import Store, job_file
from em.store.jsonl import Row


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One question to one model of the engine."""

    number: int
    """Repeated in the reply."""
    model: str
    """Key of its job."""
    messages: tuple[Message, ...]
    seed: int
    temperature: float | None = None
    """None: as the sweep samples."""
    max_tokens: int | None = None
    """None: as the sweep samples."""


class Answering:
    """A started engine with the models it serves. A model passes the gates before its first answer."""

    def __init__(self, store: Store, jobs: Sequence[SampleJob]) -> None:
        rank, modules = max(j.max_lora_rank for j in jobs), {m for j in jobs for m in j.target_modules}
        self.store, self.jobs = store, {job.key: job for job in jobs}
        engine, steered = engine_model(jobs[0], store), any(job.changes.hooked for job in jobs)
        self.sampler: Sampler = open_sampler(engine, jobs[0].sample, rank, sorted(modules), steered=steered)
        self.prompts_of = prompts_of_job(self.sampler.tokenizer)
        self._passed: set[str] = set()

    def answer(self, ask: Ask) -> str:
        """Return the text of one answer, without its thinking. Raises GateError if the model fails its gates."""
        job = self.jobs[ask.model]
        given: Row = {"seed": ask.seed, "temperature": ask.temperature, "max_tokens": ask.max_tokens}
        sample = replace(job.sample, **{name: value for name, value in given.items() if value is not None})
        job = replace(job, questions=(Question("asked", "asked", list(ask.messages), []),), lo=0, hi=1, sample=sample)
        adapter, prompts = None if job.whole_model else job.weights(self.store), self.prompts_of(job)
        request = next(iter(requests_of(prompts, job, adapter)))
        if ask.model not in self._passed:
            self._pass_gates(job, request, prompts.stops if prompts else [])
        if prompts is not None:
            compare_rendering(prompts.tokenizer, job, [request], self.store)
        with changing.changed(self.sampler, job.changes, self.store, job.model.max_model_len):
            ((_, answer),) = self.sampler.generate([request])
        if isinstance(answer, RefusedError):
            raise answer
        return without_thinking(request, answer).text

    def _pass_gates(self, job: SampleJob, request: Request, stops: Sequence[int]) -> None:
        model = served_model(job, self.store, request.adapter, stops)
        found = gating.check(self.sampler, [model], job.model.max_model_len)[model]
        if isinstance(found, GateError):
            raise found
        self._passed.add(job.key)


def serve(answering: Answering, lines: Iterable[str], reply: Callable[[Row], None]) -> None:
    """Answer every line of input. An error is the reply of its line; the next one is answered."""
    for line in lines:
        ask = job_file.load(Ask, json.loads(line))
        try:
            reply({"number": ask.number, "text": answering.answer(ask)})
        except Exception as error:  # noqa: BLE001  any error of an engine: the caller gets its message
            traceback.print_exc()
            reply({"number": ask.number, "error": error_message(error)})


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # engines print on standard output

    def reply(row: Row) -> None:
        replies.write(json.dumps(row) + "\n")

    out, jobs = job_file.read(Path(sys.argv[1]), SampleJob)
    try:
        answering = Answering(Store.open(out), jobs)
    except Exception as error:  # noqa: BLE001  any error of an engine: the caller gets its message
        traceback.print_exc()
        reply({"number": 0, "error": error_message(error)})
        sys.exit(1)
    reply({"number": 0})
    serve(answering, sys.stdin, reply)


if __name__ == "__main__":
    main()
