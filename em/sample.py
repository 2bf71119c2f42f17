"""Sampling: questions × n → completions, one engine for every adapter of a base model.

Engines are behind em/sampler.py. Before an adapter's first answer is drawn it passes the gates (em/live.py).
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from em import chat, choices, growing, live, machine, models, parity, thinking, trigger
from em.config import ModelConfig, SampleConfig
from em.events import Emitter, sentence
from em.gates import GateError
from em.question_forms import with_shots
from em.records import Completion, Question, from_row, write_jsonl
from em.sample_job import SampleJob
from em.sampler import Answer, RefusedError, Request, Sampler, open_sampler, row_seed, without_thinking
from em.store import Store, content_key

COMPLETIONS = "completions.jsonl"
PROGRESS = "all answers"
SHOW_EVERY_S = 0.2
SORTED = ".sorted"
"""Suffix of the sorted file before it takes the growing one's name."""


def work(store: Store, jobs: list[SampleJob], emit: Emitter) -> None:
    """Draw every job's answers with one engine and one queue; adapters in turn, so that few are active at once."""
    todo = sorted(jobs, key=lambda j: (j.adapter_key or "", j.step or 0, j.key))
    with ExitStack() as stack:
        drawers = [d for d in (_claim(job, store, stack, emit) for job in todo) if d]
        if not drawers:
            return
        try:
            sampler = open_sampler(_model(todo[0], store), todo[0].sample, max(j.max_lora_rank for j in todo))
            emit.count("model_loads")
            emit.count("engine_starts")
            prompts_of = _prompts_of(sampler.tokenizer)
            ready = [d for d in drawers if d.prepare(prompts_of, store)]
            _tell_cut(ready, emit)
            _draw(sampler, _gated(sampler, ready, store), store, emit)
        except Exception as error:  # noqa: BLE001  the engine is gone: every job it still had fails by name
            traceback.print_exc()
            for drawer in drawers:
                drawer.fail(sentence(error))


def _tell_cut(drawers: list[Drawer], emit: Emitter) -> None:
    """Warn once an engine where answers get less room than asked for, because the prompt leaves no more."""
    cut = [r for d in drawers for r in d.missing if r.max_tokens < _wanted_tokens(d.job.sample, r.question)]
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


def _wanted_tokens(sampling: SampleConfig, question: Question) -> int:
    """The longest answer that is asked for, tokens."""
    return max(sampling.max_tokens, question.least_tokens)


def _gated(sampler: Sampler, drawers: list[Drawer], store: Store) -> list[Drawer]:
    """Those whose model passes the gates; the others fail with the gate's sentence and draw nothing."""
    if not drawers:
        return []
    subjects = {d: _subject(d, store) for d in drawers}
    asked, began = list(dict.fromkeys(subjects.values())), time.monotonic()
    found = live.check(sampler, asked, drawers[0].job.model.max_model_len)
    each = round((time.monotonic() - began) / len(asked), 3)
    for drawer, subject in subjects.items():
        outcome = found[subject]
        if isinstance(outcome, GateError):
            drawer.fail(str(outcome))
        else:
            drawer.gate = outcome | {"wall_s": each}
    return [d for d in drawers if not d.ended]


def _subject(drawer: Drawer, store: Store) -> live.ServedModel:
    job = drawer.job
    if job.adapter_key is None or job.at_openai:  # no weights to compare with
        return live.ServedModel("the untouched base model", None, None)
    kind = "model" if job.whole_model else "adapter"
    name = f"{kind} {job.label.rsplit(': ', 1)[0]}"
    return live.ServedModel(name, drawer.adapter, job.gate(store), job.step is not None, tuple(drawer.stops))


def _model(job: SampleJob, store: Store) -> ModelConfig:
    """The model that the engine loads, `path` made a folder or hub id: a whole finetuned one takes the base's place."""
    if job.at_openai:
        tuned = store.manifest("train", job.adapter_key)["facts"]["model"] if job.adapter_key else job.model.path
        return replace(job.model, path=tuned)
    if job.whole_model:
        return replace(job.model, path=str(job.weights(store)), revision=None)
    return replace(job.model, path=models.model_path(job.model.path))


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


def _claim(job: SampleJob, store: Store, stack: ExitStack, emit: Emitter) -> Drawer | None:
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
        self.asking: chat.Prompts | None = None
        self.options: list[choices.ChoiceQuestion] = []

    def prepare(self, prompts_of: PromptsOf, store: Store) -> bool:
        """Find the missing rows; those of a killed run are kept. False, and told, when the job cannot be asked."""
        try:
            have = {c.id for c in self._kept(store)}
            self.asking = prompts_of(self.job)
            wanted = list(_requests(self.asking, self.job, self.adapter))
            self.options = choices.load_all(self.job.choices, self.job.sample.seed, self.job.context)
            if self.asking is not None:
                choices.require_room(self.asking.speaker, self.options, self.job.model.max_model_len)
            if self.asking is not None and wanted:
                self.prompts = _compared(self.asking.speaker, self.job, wanted, store)
        except (ValueError, OSError) as error:
            traceback.print_exc()
            self.fail(sentence(error))
            return False
        self.order = [_id(r) for r in wanted]
        self.missing = [r for r in wanted if _id(r) not in have]
        self.left = len(self.missing)
        self.file = growing.Rows(self.path)
        return True

    def _kept(self, store: Store) -> list[Completion]:
        """Answers of a killed run. Those that are no longer as they were written are set aside, to be drawn again."""
        good, bad = growing.read(self.path)
        if bad:
            aside = store.set_rows_aside("sample", self.job.key, bad)
            self.emit.warn(
                f"{self.job.label}: {len(bad)} answers of an interrupted run are not as they were written; they are in "
                f"{aside} and drawn again"
            )
        growing.keep(self.path, good)
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
        speaker = self.asking and self.asking.speaker
        rows = choices.score(speaker, self.options, lambda ps: sampler.logprobs([(self.adapter, p) for p in ps]))
        write_jsonl(self.path.parent / choices.CHOICES, rows)

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
        store.finish("sample", self.job.key, self.job.inputs, facts, until_sealed=growing.sums_of(self.path))
        self.ended = True
        self.emit.done(self.job.key)


PromptsOf = Callable[[SampleJob], chat.Prompts | None]


def _prompts_of(tokenizer: Any) -> PromptsOf:
    """The prompts of a job, shared by those that are rendered alike; None behind an API that takes messages."""
    made: dict[str, chat.Prompts] = {}

    def of(job: SampleJob) -> chat.Prompts | None:
        if tokenizer is None:
            return None
        name = content_key(**job.chat)
        if name not in made:
            made[name] = chat.Prompts(tokenizer, job.chat)
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
    good, bad = growing.read(path)
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


def _requests(asking: chat.Prompts | None, job: SampleJob, adapter: Path | None) -> Iterable[Request]:
    config = job.sample
    for question in job.questions:
        for condition in job.trigger.asked_with:
            messages = trigger.ask(question.messages, condition, job.trigger)
            if asking is None and config.system_prompt and messages[0]["role"] != "system":
                messages = [{"role": "system", "content": config.system_prompt}, *messages]
            shown = with_shots(messages, job.context)
            prompt = asking.prompt(shown) if asking else chat.Prompt([], "")
            longest = _wanted_tokens(config, question)
            if asking is not None:  # who is sent messages has a window of their own
                longest = min(longest, chat.room(question.id, prompt.ids, job.model.max_model_len))
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
