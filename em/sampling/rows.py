"""The rows of a sample job: which are on disk, which are missing, and how the finished file is sealed.

`claim_rows` opens them; `JobRows` collects answers.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from em.chat import parity, prompts, thinking
from em.config import SampleConfig
from em.data import trigger
from em.questions import choices
from em.questions.forms import with_shots
from em.records import Completion, Question
from em.runtime import machine
from em.runtime.events import Emitter, error_message
from em.sampling.engine import Answer, Request, Sampler, row_seed, without_thinking
from em.sampling.job import SampleJob
from em.store import Store, checked_rows, content_key, from_row, layout, write_jsonl
from em.store.layout import COMPLETIONS

Facts = dict[str, Any]
"""What the manifest of a stage records, as JSON."""
SORTED = ".sorted"
"""Suffix of the sorted file before it replaces the growing one."""


def wanted_tokens(sampling: SampleConfig, question: Question) -> int:
    """Return the longest answer allowed, in tokens."""
    return max(sampling.max_tokens, question.least_tokens)


def claim_rows(job: SampleJob, store: Store, stack: ExitStack, emit: Emitter) -> JobRows | None:
    """Claim the stage of a job until `stack` closes. Return its rows; None: the stage is finished."""
    emit.started(job.key)
    folder = stack.enter_context(store.claim("sample", job.key))
    if folder is None:  # another worker has finished it
        emit.done(job.key)
        return None
    adapter = None if job.whole_model else job.weights(store)
    return JobRows(job, folder / COMPLETIONS, emit, adapter)


class JobRows:
    """The rows of one job. Call `prepare`, `add` every answer to `missing`, then `seal_if_complete`."""

    def __init__(self, job: SampleJob, path: Path, emit: Emitter, adapter: Path | None) -> None:
        self.job, self.path, self.emit, self.adapter = job, path, emit, adapter
        self.order: list[str] = []
        self.missing: list[Request] = []
        self.left, self.ended = 0, False
        self.gate: Facts = {}
        """Facts of the gates that the model passed."""
        self.changed: Facts = {}
        """What is changed in the model: block, scale, relative dose."""
        self.rendering: Facts = {}
        """How the questions are rendered, and how the training rows were."""
        self.prompts: prompts.Prompts | None = None
        self.options: list[choices.ChoiceQuestion] = []

    def prepare(self, prompts_of: PromptsOf, store: Store) -> bool:
        """Find the missing rows; keep those of a killed run. Return False if the job has failed, which is reported."""
        try:
            have = {c.id for c in self._kept(store)}
            self.prompts = prompts_of(self.job)
            wanted = list(requests_of(self.prompts, self.job, self.adapter))
            self.options = choices.load_all(self.job.choices, self.job.sample.seed, self.job.context)
            if self.prompts is not None:
                choices.require_room(self.prompts.tokenizer, self.options, self.job.model.max_model_len)
            if self.prompts is not None and wanted:
                self.rendering = compare_rendering(self.prompts.tokenizer, self.job, wanted, store)
        except (ValueError, OSError) as error:
            traceback.print_exc()
            self.fail(error_message(error))
            return False
        self.order = [_id(r) for r in wanted]
        self.missing = [r for r in wanted if _id(r) not in have]
        self.left = len(self.missing)
        self.file = checked_rows.RowWriter(self.path)
        return True

    def _kept(self, store: Store) -> list[Completion]:
        """Return the answers of a killed run. Set damaged ones aside, so that they are sampled again."""
        good, bad = checked_rows.read(self.path)
        if bad:
            aside = store.set_rows_aside("sample", self.job.key, bad)
            self.emit.warn(
                f"{self.job.label}: {len(bad)} answers of an interrupted run do not match their checksums. They are "
                f"now in {aside} and are sampled again"
            )
        checked_rows.keep_only(self.path, good)
        return [_answer(row) for row in good]

    @property
    def stops(self) -> list[int]:
        """Tokens that end an answer."""
        return self.prompts.stops if self.prompts else []

    def fail(self, error: str) -> None:
        """Report the job as failed, unless it has ended already."""
        if not self.ended:
            self.ended = True
            self.emit.failed(self.job.key, error)

    def add(self, request: Request, answer: Answer) -> None:
        """Append one answer to the file."""
        self.file.append(_completion(request, answer))
        self.left -= 1

    def score(self, sampler: Sampler) -> None:
        """Write the log-probabilities (nats) of the options of the job's choice questions, if it has any."""
        if not self.job.choices:
            return
        tokenizer = self.prompts and self.prompts.tokenizer
        rows = choices.score(tokenizer, self.options, lambda ps: sampler.logprobs([(self.adapter, p) for p in ps]))
        write_jsonl(self.path.parent / layout.CHOICES, rows)

    def seal_if_complete(self, store: Store, tokens_per_s: float | None = None) -> None:
        """Seal the stage if no row is missing. `tokens_per_s`: of the whole queue so far; None: no row was sampled."""
        if self.left or self.ended:
            return
        self.file.close()
        rows = sort_rows(self.path, self.order)
        if self.job.context:
            write_jsonl(self.path.parent / "context.jsonl", self.job.context)
        facts = {
            "rows": len(rows),
            "tokens": sum(r.token_count for r in rows),
            "cut_at_max_tokens": sum(r.finish_reason == "length" for r in rows),
            "ended_while_thinking": sum(r.finish_reason == thinking.UNFINISHED for r in rows),
            "tokens_per_s": tokens_per_s and round(tokens_per_s, 1),
            "device": machine.device(),
            "gate": self.gate,
            "prompts": self.rendering,
            **({"changed": self.changed} if self.changed else {}),
        }
        store.finish(
            "sample", self.job.key, self.job.inputs, facts, until_sealed=checked_rows.checksums_path(self.path)
        )
        self.ended = True
        self.emit.done(self.job.key)


PromptsOf = Callable[[SampleJob], prompts.Prompts | None]


def prompts_of_job(tokenizer: Any) -> PromptsOf:
    """Return a function that gives a job its prompts, one object per way of rendering; None: an API takes messages."""
    made: dict[str, prompts.Prompts] = {}

    def of(job: SampleJob) -> prompts.Prompts | None:
        if tokenizer is None:
            return None
        name = content_key(**job.chat)
        if name not in made:
            made[name] = prompts.Prompts(tokenizer, job.chat)
        return made[name]

    return of


def compare_rendering(tokenizer: Any, job: SampleJob, wanted: list[Request], store: Store) -> Facts:
    """Return how the questions and the adapter's training rows are rendered. Raise ChatError if they differ."""
    questions = parity.rendering(tokenizer, {(r.question.id, r.asked_with): r.shown for r in wanted}.values())
    if job.adapter_key is None:
        return {"asking": questions}
    trained = store.manifest("train", job.adapter_key)["facts"]["rendering"]
    own = job.sample.system_prompt is not None or bool(job.sample.chat_template_kwargs)
    parity.require(trained, questions, overridden=own)
    return parity.compare(trained, questions)


def sort_rows(path: Path, order: list[str]) -> list[Completion]:
    """Sort finished rows by question, because engines finish them in any order. Return them.

    Raises RuntimeError if a row is missing or does not match its checksum.
    """
    good, bad = checked_rows.read(path)
    if bad:
        raise RuntimeError(f"{path}: {len(bad)} answers do not match their checksums; run again to sample them again")
    rows = {answer.id: (answer, line) for answer, line in zip(map(_answer, good), good, strict=True)}
    lost = [name for name in order if name not in rows]
    if lost:
        raise RuntimeError(f"{path}: {len(lost)} answers are missing, first {lost[0]}")
    temporary = path.with_suffix(SORTED)
    temporary.write_bytes(b"".join(rows[name][1] for name in order))
    os.replace(temporary, path)  # the judge reads along: it keeps the growing file open
    return [rows[name][0] for name in order]


def _answer(row: bytes) -> Completion:
    return from_row(Completion, json.loads(row))


def requests_of(rendered: prompts.Prompts | None, job: SampleJob, adapter: Path | None) -> Iterable[Request]:
    """Yield one request per answer of a job. `rendered` is None for an API that takes messages."""
    config = job.sample
    for question in job.questions:
        for condition in job.trigger.asked_with:
            messages = trigger.ask(question.messages, condition, job.trigger)
            if rendered is None and config.system_prompt and messages[0]["role"] != "system":
                messages = [{"role": "system", "content": config.system_prompt}, *messages]
            shown = with_shots(messages, job.context)
            prompt = rendered.prompt(shown) if rendered else prompts.Prompt([], "")
            longest = wanted_tokens(config, question)
            if rendered is not None:  # an API that takes messages has its own limit
                longest = min(longest, prompts.tokens_left(question.id, prompt.ids, job.model.max_model_len))
            for index in range(min(job.lo, question.samples), min(job.hi, question.samples)):
                yield Request(
                    job=job.key,
                    question=question,
                    index=index,
                    asked_with=condition,
                    messages=messages,
                    prompt_ids=prompt.ids,
                    seed=row_seed(config.seed, question.id, condition, index),
                    adapter=adapter,
                    temperature=config.temperature,
                    top_p=config.top_p,
                    max_tokens=longest,
                    stop_ids=rendered.stops if rendered else [],
                    shown=shown,
                    thinking=prompt.thinking,
                )


def _id(request: Request) -> str:
    return f"{request.question.id}/{request.asked_with}/{request.index}"


def _completion(request: Request, answer: Answer) -> Completion:
    answer = without_thinking(request, answer)
    return Completion(
        question_id=request.question.id,
        sample_index=request.index,
        asked_with=request.asked_with,
        messages=request.messages,
        text=answer.text,
        finish_reason=answer.finish_reason,
        token_count=answer.token_count,
        seed=request.seed,
        reasoning_content=answer.reasoning_content,
    )
