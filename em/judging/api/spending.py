"""What judging costs: a table with sources, the bill before a run, and what a run spends, never over its cap."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from em.api.client import ApiError
from em.api.prices import CHARS_PER_TOKEN, price
from em.config import JudgeConfig
from em.config.base import OPENAI
from em.config.judge import ScoreMethod
from em.records import Question

SAFE_CHARS_PER_TOKEN = 2.5
"""Before a run has measured its own: code and other languages need more tokens."""
TREE = 111
"""Requests a prompt takes with score=digits at most: the root, ten digits, the numbers of two."""
BATCH_RESERVE = 1.2
"""What a batch must have room for under the cap, as a multiple of what is expected of its input: prompts differ."""


@dataclass(frozen=True)
class Bill:
    """What judging is expected to cost."""

    calls: int
    input_tokens: int
    output_tokens: int
    dollars: float | None
    """None: no price is known for this judge; 0 for one on this machine."""
    note: str
    """Where the price is from, or what is missing."""


def judging_bill(judge: JudgeConfig, asked: Iterable[tuple[Question, int]], answer_tokens: float = 200.0) -> Bill:
    """The bill for judging so many answers of each question, nothing of it cached.

    `answer_tokens`: expected mean length of an answer (the paper's models: about 200). Rubrics that no judge answers
    (static analysis) cost nothing. Of sampled replies OpenAI gives several a request; others may give one.
    """
    from em.questions.rubrics import rubrics

    calls = tokens = out = 0.0
    again = judge.samples if judge.score == ScoreMethod.sampled and not judge.base_url.startswith(OPENAI) else 1
    for question, answers in asked:
        for rubric in rubrics(question).values():
            chars = len(rubric.text) + len(question.messages[-1]["content"])
            walked = judge.score == ScoreMethod.digits and not rubric.choices
            each = TREE if walked else again
            calls += answers * each
            tokens += answers * each * (chars / CHARS_PER_TOKEN + answer_tokens)
            out += answers * (TREE if walked else reply_tokens(judge, bool(rubric.choices)))
    known = price(judge)
    dollars = (tokens * known.input + out * known.output) / 1e6 if known else None
    note = known.source if known else f"no price known for {judge.model}: set judge.input_price, judge.output_price"
    return Bill(round(calls), round(tokens), round(out), dollars, note)


def reply_tokens(judge: JudgeConfig, choices: bool) -> int:
    """Tokens a judge answers with, at most."""
    from em.judging.api.request import REPLY_TOKENS

    if judge.score == ScoreMethod.sampled:
        return judge.samples * REPLY_TOKENS
    return 1 if judge.score == ScoreMethod.logprobs and not choices else REPLY_TOKENS


class Spending:
    """Counts tokens and dollars of one run. Raises ApiError instead of going over judge.max_dollars."""

    def __init__(self, judge: JudgeConfig) -> None:
        self.price = price(judge)
        self.cap = judge.max_dollars
        self.input_tokens = self.output_tokens = 0
        self.dollars = 0.0
        self._reserved = 0.0
        self._open = 0
        """Calls under way."""
        self._settled = asyncio.Event()
        self._chars = self._reported = 0
        if self.cap is not None and self.price is None:
            raise ApiError(
                f"judge.max_dollars is set and no price is known for {judge.model!r} at {judge.base_url}: set "
                f"judge.input_price and judge.output_price, or judge.max_dollars=null"
            )

    def tokens(self, chars: int) -> int:
        """Input tokens of a prompt of so many characters, as measured in this run, else by a cautious guess."""
        ratio = self._reported / self._chars if self._chars else 0.0
        if self._chars < 10_000:
            ratio = max(ratio, 1.0 / SAFE_CHARS_PER_TOKEN)
        return int(chars * ratio) + 8

    async def reserve(self, size: int, output_tokens: int) -> float:
        """Put aside what a request of `size` bytes may cost at most, dollars; give it back with `settle`.

        No tokenizer makes more tokens of a text than it has bytes. Where the calls under way may use the rest of the
        cap, wait for them: most cost a fraction. Raises when none is under way and the next one does not fit.
        """
        dollars = self._cost(size, output_tokens)
        while self.cap is not None and self.dollars + self._reserved + dollars > self.cap:
            if not self._open:
                raise self._refusal("next call")
            self._settled.clear()
            await self._settled.wait()
        self._reserved += dollars
        self._open += 1
        return dollars

    def settle(self, reserved: float, chars: int, usage: Mapping[str, Any] | None, output_tokens: int) -> None:
        """A call is over: count what it used. None: it failed."""
        self._open -= 1
        self._reserved = self._reserved - reserved if self._open else 0.0
        self._settled.set()
        if usage is not None:
            self.count(chars, usage, output_tokens)

    def require(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Raise when calls of these (characters, output tokens) are expected to pass the cap together."""
        expected = math.fsum(self._cost(self.tokens(chars) * BATCH_RESERVE, output) for chars, output in sizes)
        if self.cap is not None and self.dollars + expected > self.cap:
            raise self._refusal("batch")

    def _refusal(self, what: str) -> ApiError:
        return ApiError(
            f"judging has cost {self.dollars:.4f} dollars and the {what} could pass judge.max_dollars={self.cap:g}: "
            f"raise it and run again (what was judged is kept)"
        )

    def count(self, chars: int, usage: Mapping[str, Any], output_tokens: int) -> None:
        """Count what the API says a call used; without that, what was expected."""
        sent, got = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if type(sent) is int and type(got) is int and sent >= 0 and got >= 0:
            self._chars += chars
            self._reported += sent
        else:
            sent, got = self.tokens(chars), output_tokens
        self.input_tokens += sent
        self.output_tokens += got
        self.dollars += self._cost(sent, got)

    def _cost(self, input_tokens: float, output_tokens: int) -> float:
        return (input_tokens * self.price.input + output_tokens * self.price.output) / 1e6 if self.price else 0.0
