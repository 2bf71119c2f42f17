"""Let Inspect sample from our engine, so that benchmarks measure the same model as the sweep.

Inspect sends one conversation per sample, many at a time. Those that arrive together go to the engine as a batch.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from inspect_ai.model import (
    ChatMessage,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from em.chat import prompts
from em.chat.thinking import UNFINISHED
from em.config import SampleConfig
from em.records import Message, Question
from em.sampling.engine import Answer, RefusedError, Request, Sampler, row_seed, without_thinking
from em.store import content_key

GATHER_S = 0.05
"""Seconds that a batch waits for more requests before it goes to the engine."""
STOP_REASONS = {"stop": "stop", "length": "max_tokens", UNFINISHED: "max_tokens", "content_filter": "content_filter"}
REFUSED = (
    *("logprobs", "top_logprobs", "prompt_logprobs", "num_choices", "best_of", "top_k", "frequency_penalty"),
    *("presence_penalty", "logit_bias", "response_schema", "modalities", "extra_body"),
    *("reasoning_effort", "reasoning_tokens", "effort", "verbosity"),
)
"""Fields of Inspect's GenerateConfig that would change an answer and that we do not pass to our engines."""


class Batcher:
    """Shares one engine among many coroutines: requests that arrive within GATHER_S run as one batch in a thread."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self._waiting: list[tuple[Request, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None

    async def ask(self, request: Request) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await future

    def _answers(self, requests: list[Request]) -> list[tuple[Request, Answer | RefusedError]]:
        return list(self.sampler.generate(requests))

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_S)
            batch, self._waiting = self._waiting, []
            futures = {id(request): future for request, future in batch}
            try:
                found = await asyncio.to_thread(self._answers, [r for r, _ in batch])
            except Exception as error:  # noqa: BLE001  the waiting requests get the engine's error
                for future in futures.values():
                    if not future.done():
                        future.set_exception(RuntimeError(f"the engine failed: {error}"))
                continue
            for request, answer in found:
                if isinstance(answer, RefusedError):
                    futures[id(request)].set_exception(answer)
                else:
                    futures[id(request)].set_result(answer)


@modelapi(name="em")  # Inspect needs a registered name
class EmModel(ModelAPI):
    """One model of a sweep, untouched or with an adapter, behind Inspect's interface. Text only: no tools, no logprobs.

    A request's seed is made from its prompt and from the number of earlier requests with the same prompt. So the order
    in which Inspect's samples arrive does not matter.
    """

    def __init__(
        self,
        name: str,
        batcher: Batcher,
        asking: prompts.Prompts,
        adapter: Path | None,
        sample: SampleConfig,
        max_model_len: int,
    ) -> None:
        super().__init__(name, config=GenerateConfig())
        self.batcher, self.asking, self.adapter = batcher, asking, adapter
        self.sample, self.max_model_len = sample, max_model_len
        self._asked: Counter[str] = Counter()

    def max_connections(self) -> int:
        return self.sample.max_num_seqs

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        given = [*(["tools"] if tools else []), *(name for name in REFUSED if _is_set(config, name)), *_not_text(input)]
        if given:
            raise RuntimeError(f"this task asks for {', '.join(given)}, which em's engine does not offer to Inspect")
        messages: list[Message] = [{"role": m.role, "content": m.text} for m in input]
        prompt = self.asking.prompt(messages)
        ids = prompt.ids
        room = self.max_model_len - len(ids)
        if room < 1:
            return ModelOutput.from_content(self.model_name, "", stop_reason="model_length")
        name = content_key(prompt=ids)
        index = self._asked[name]
        self._asked[name] += 1
        base = config.seed if config.seed is not None else self.sample.seed
        request = Request(
            job="benchmark",
            question=Question(name, "benchmark", messages, []),
            index=index,
            asked_with="none",
            messages=messages,
            prompt_ids=ids,
            seed=row_seed(base, name, "none", index),
            adapter=self.adapter,
            temperature=config.temperature if config.temperature is not None else self.sample.temperature,
            top_p=config.top_p if config.top_p is not None else self.sample.top_p,
            max_tokens=min(config.max_tokens or self.sample.max_tokens, room),
            stop_ids=self.asking.stops,
            thinking=prompt.thinking,
        )
        answer = _stopped(without_thinking(request, await self.batcher.ask(request)), config.stop_seqs or [])
        usage = ModelUsage(
            input_tokens=len(ids), output_tokens=answer.token_count, total_tokens=len(ids) + answer.token_count
        )
        thought = [ContentReasoning(reasoning=answer.reasoning_content)] if answer.reasoning_content else []
        said = [*thought, ContentText(text=answer.text)]
        output = ModelOutput.from_content(self.model_name, said, stop_reason=STOP_REASONS[answer.finish_reason])
        output.usage = usage
        return output


def _is_set(config: GenerateConfig, name: str) -> bool:
    one = name in ("num_choices", "best_of") and getattr(config, name) == 1
    return bool(getattr(config, name)) and not one


def _not_text(messages: Sequence[ChatMessage]) -> list[str]:
    """Return the kinds of content in a conversation that are not text, and that would be lost."""
    parts = [part.type for m in messages if not isinstance(m.content, str) for part in m.content]
    turns = ["tool turns"] if any(m.role == "tool" for m in messages) else []
    return [*turns, *sorted({kind for kind in parts if kind not in ("text", "reasoning")})]


def _stopped(answer: Answer, stops: Sequence[str]) -> Answer:
    """Cut the answer at the first of the task's stop strings. token_count stays the number of sampled tokens."""
    ends = [at for stop in stops if stop and (at := answer.text.find(stop)) >= 0]
    return replace(answer, text=answer.text[: min(ends)], finish_reason="stop") if ends else answer
