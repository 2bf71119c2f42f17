"""sampling.rows."""

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
from em.runtime.events import Emitter, sentence
from em.sampling.engine import Answer, Request, Sampler, row_seed, without_thinking
from em.sampling.job import SampleJob
from em.store import Store, checked_rows, content_key, from_row, layout, write_jsonl
from em.store.layout import COMPLETIONS

SORTED = ".sorted"
"""Suffix of the sorted file before it takes the growing one's name."""


def wanted_tokens(sampling: SampleConfig, question: Question) -> int:
    """The longest answer that is asked for, tokens."""
    return max(sampling.max_tokens, question.least_tokens)


def claim_rows(job: SampleJob, store: Store, stack: ExitStack, emit: Emitter) -> Drawer | None:
    emit.started(job.key)
    folder = stack.enter_context(store.claim("sample", job.key))
    if folder is None:  # another process finished it meanwhile
        emit.done(job.key)
        return None
    adapter = None if job.whole_model else job.weights(store)
    return Drawer(job, folder / COMPLETIONS, emit, adapter)


class Drawer:
    """One job's rows on disk: which are there, which are missing."""

    def __init__(self, job: SampleJob, path: Path, emit: Emitter, adapter: Path | None) -> None:
        self.job, self.path, self.emit, self.adapter = job, path, emit, adapter
        self.order: list[str] = []
        self.missing: list[Request] = []
        self.left, self.ended = 0, False
        self.gate: dict[str, Any] = {}
        """Facts of the gates it passed."""
        self.prompts: dict[str, Any] = {}
        self.asking: prompts.Prompts | None = None
        self.options: list[choices.ChoiceQuestion] = []

    def prepare(self, prompts_of: PromptsOf, store: Store) -> bool:
        """Find the missing rows; those of a killed run are kept. False, and told, when the job cannot be asked."""
        try:
            have = {c.id for c in self._kept(store)}
            self.asking = prompts_of(self.job)
            wanted = list(_requests(self.asking, self.job, self.adapter))
            self.options = choices.load_all(self.job.choices, self.job.sample.seed, self.job.context)
            if self.asking is not None:
                choices.require_room(self.asking.tokenizer, self.options, self.job.model.max_model_len)
            if self.asking is not None and wanted:
                self.prompts = _compared(self.asking.tokenizer, self.job, wanted, store)
        except (ValueError, OSError) as error:
            traceback.print_exc()
            self.fail(sentence(error))
            return False
        self.order = [_id(r) for r in wanted]
        self.missing = [r for r in wanted if _id(r) not in have]
        self.left = len(self.missing)
        self.file = checked_rows.RowWriter(self.path)
        return True

    def _kept(self, store: Store) -> list[Completion]:
        """Return the answers of a killed run. Damaged ones are set aside, and sampled again."""
        good, bad = checked_rows.read(self.path)
        if bad:
            aside = store.set_rows_aside("sample", self.job.key, bad)
            self.emit.warn(
                f"{self.job.label}: {len(bad)} answers of an interrupted run are not as they were written; they are in "
                f"{aside} and drawn again"
            )
        checked_rows.keep_only(self.path, good)
        return [_answer(row) for row in good]

    @property
    def stops(self) -> list[int]:
        return self.asking.stops if self.asking else []

    def fail(self, why: str) -> None:
        """Tell it, unless the job has ended already."""
        if not self.ended:
            self.ended = True
            self.emit.failed(self.job.key, why)

    def add(self, request: Request, answer: Answer) -> None:
        self.file.append(_completion(request, answer))
        self.left -= 1

    def score(self, sampler: Sampler) -> None:
        """Write the log-probabilities of the options of `choices`, where the job asks for them."""
        if not self.job.choices:
            return
        speaker = self.asking and self.asking.tokenizer
        rows = choices.score(speaker, self.options, lambda ps: sampler.logprobs([(self.adapter, p) for p in ps]))
        write_jsonl(self.path.parent / layout.CHOICES, rows)

    def finish_if_whole(self, store: Store, tokens_per_s: float | None = None) -> None:
        """Seal the stage when its last row is there. `tokens_per_s`: the queue's so far; None: nothing was drawn."""
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
            "prompts": self.prompts,
        }
        store.finish("sample", self.job.key, self.job.inputs, facts, until_sealed=checked_rows.sums_of(self.path))
        self.ended = True
        self.emit.done(self.job.key)


PromptsOf = Callable[[SampleJob], prompts.Prompts | None]


def prompts_of_job(tokenizer: Any) -> PromptsOf:
    """The prompts of a job, shared by those that are rendered alike; None behind an API that takes messages."""
    made: dict[str, prompts.Prompts] = {}

    def of(job: SampleJob) -> prompts.Prompts | None:
        if tokenizer is None:
            return None
        name = content_key(**job.chat)
        if name not in made:
            made[name] = prompts.Prompts(tokenizer, job.chat)
        return made[name]

    return of


def _compared(tokenizer: Any, job: SampleJob, wanted: list[Request], store: Store) -> dict[str, Any]:
    """How the questions are rendered, beside how the adapter's training rows were. Raises ChatError if they differ."""
    asked = parity.rendering(tokenizer, {(r.question.id, r.asked_with): r.shown for r in wanted}.values())
    if job.adapter_key is None:
        return {"asking": asked}
    trained = store.manifest("train", job.adapter_key)["facts"]["rendering"]
    own = job.sample.system_prompt is not None or bool(job.sample.chat_template_kwargs)
    parity.require(trained, asked, overridden=own)
    return parity.compare(trained, asked)


def sort_rows(path: Path, order: list[str]) -> list[Completion]:
    """Put finished rows into the questions' order: engines finish them in any. Returns them.

    The growing file is replaced, not rewritten: whoever reads along keeps the one it has open.
    """
    good, bad = checked_rows.read(path)
    if bad:
        raise RuntimeError(f"{path}: {len(bad)} answers are not as they were written; run it again to draw these anew")
    rows = {answer.id: (answer, line) for answer, line in zip(map(_answer, good), good, strict=True)}
    lost = [name for name in order if name not in rows]
    if lost:
        raise RuntimeError(f"{path}: {len(lost)} answers were not drawn, first {lost[0]}")
    temporary = path.with_suffix(SORTED)
    temporary.write_bytes(b"".join(rows[name][1] for name in order))
    os.replace(temporary, path)
    return [rows[name][0] for name in order]


def _answer(row: bytes) -> Completion:
    return from_row(Completion, json.loads(row))


def _requests(asking: prompts.Prompts | None, job: SampleJob, adapter: Path | None) -> Iterable[Request]:
    config = job.sample
    for question in job.questions:
        for condition in job.trigger.asked_with:
            messages = trigger.ask(question.messages, condition, job.trigger)
            if asking is None and config.system_prompt and messages[0]["role"] != "system":
                messages = [{"role": "system", "content": config.system_prompt}, *messages]
            shown = with_shots(messages, job.context)
            prompt = asking.prompt(shown) if asking else prompts.Prompt([], "")
            longest = wanted_tokens(config, question)
            if asking is not None:  # who is sent messages has a window of their own
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
                    stop_ids=asking.stops if asking else [],
                    shown=shown,
                    thinking=prompt.thinking,
                )


def _id(request: Request) -> str:
    return f"{request.question.id}/{request.asked_with}/{request.index}"


def _completion(request: Request, answer: Answer) -> Completion:
    answer = without_thinking(request, answer)
    return Completion(
        request.question.id,
        request.index,
        request.asked_with,
        request.messages,
        answer.text,
        answer.finish_reason,
        answer.token_count,
        request.seed,
        answer.reasoning_content,
    )
