"""Costs of an API judge: the expected bill before a run (`judging_bill`), and the cap during it (`Spending`)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from em.api.client import ApiError
from em.api.prices import CHARS_PER_TOKEN, price
from em.config import JudgeConfig, JudgeKind
from em.config.base import OPENAI
from em.config.judge import ScoreMethod
from em.config.panel import members
from em.records import Question

SAFE_CHARS_PER_TOKEN = 2.5
"""Used until a run has measured its own ratio. Code and other languages need more tokens."""
TREE = 111
"""Most requests per prompt with score=digits: the root, ten digits, a hundred numbers of two digits."""
BATCH_RESERVE = 1.2
"""A batch must fit under the cap with this multiple of its expected input tokens, because prompts differ."""


@dataclass(frozen=True)
class Bill:
    """The expected cost of judging."""

    calls: int
    input_tokens: int
    output_tokens: int
    dollars: float | None
    """None if no price is known for this judge; 0 for a judge on this machine."""
    price_source: str
    """Where the price is from, or how to set one."""


def judging_bill(judge: JudgeConfig, questions: Iterable[tuple[Question, int]], answer_tokens: float = 200.0) -> Bill:
    """Return the bill for judging the answers to these questions, if none is in the cache.

    `questions`: each with its number of answers. `answer_tokens`: expected mean length of an answer (the paper's
    models: about 200). Rubrics for Bandit cost nothing. For sampled replies, OpenAI gives several per request; other
    vendors may give one.
    """
    from em.questions.rubrics import rubrics

    if judge.kind == JudgeKind.panel:
        asked = list(questions)
        return _sum_of([judging_bill(one, asked, answer_tokens) for one in members(judge).values()])
    calls = tokens = out = 0.0
    again = judge.samples if judge.score == ScoreMethod.sampled and not judge.base_url.startswith(OPENAI) else 1
    for question, answers in questions:
        for rubric in rubrics(question).values():
            chars = len(rubric.text) + len(question.messages[-1]["content"])
            walked = judge.score == ScoreMethod.digits and not rubric.choices
            requests = TREE if walked else again
            calls += answers * requests
            tokens += answers * requests * (chars / CHARS_PER_TOKEN + answer_tokens)
            out += answers * (TREE if walked else reply_tokens(judge, bool(rubric.choices)))
    known = price(judge)
    dollars = (tokens * known.input + out * known.output) / 1e6 if known else None
    source = known.source if known else f"no price known for {judge.model}: set judge.input_price, judge.output_price"
    return Bill(round(calls), round(tokens), round(out), dollars, source)


def _sum_of(bills: Sequence[Bill]) -> Bill:
    known = [b.dollars for b in bills if b.dollars is not None]
    return Bill(
        sum(b.calls for b in bills),
        sum(b.input_tokens for b in bills),
        sum(b.output_tokens for b in bills),
        sum(known) if len(known) == len(bills) else None,
        "; ".join(dict.fromkeys(b.price_source for b in bills)),
    )


def reply_tokens(judge: JudgeConfig, choices: bool) -> int:
    """Return the most tokens in a judge's replies to one prompt. `choices`: the rubric has labels."""
    from em.judging.api.request import REPLY_TOKENS

    if judge.score == ScoreMethod.sampled:
        return judge.samples * REPLY_TOKENS
    return 1 if judge.score == ScoreMethod.logprobs and not choices else REPLY_TOKENS


class Spending:
    """Counts tokens and dollars of one run. Raises ApiError before the run could exceed judge.max_dollars.

    Call `reserve` before each call and `settle` after it. A batch calls `require` first and `count` per result.
    """

    def __init__(self, judge: JudgeConfig) -> None:
        self.price = price(judge)
        self.cap = judge.max_dollars
        self.input_tokens = self.output_tokens = 0
        self.dollars = 0.0
        self._reserved = 0.0
        self._open = 0
        """Calls in flight."""
        self._settled = asyncio.Event()
        self._chars = self._reported = 0
        if self.cap is not None and self.price is None:
            raise ApiError(
                f"judge.max_dollars is set and no price is known for {judge.model!r} at {judge.base_url}: set "
                f"judge.input_price and judge.output_price, or judge.max_dollars=null"
            )

    def tokens(self, chars: int) -> int:
        """Return the expected input tokens of a prompt of `chars` characters, as measured in this run. Before 10,000
        measured characters the estimate is a cautious one."""
        ratio = self._reported / self._chars if self._chars else 0.0
        if self._chars < 10_000:
            ratio = max(ratio, 1.0 / SAFE_CHARS_PER_TOKEN)
        return int(chars * ratio) + 8

    async def reserve(self, size: int, output_tokens: int) -> float:
        """Reserve the most that a request of `size` bytes can cost, in dollars. Return it for `settle`.

        If the calls in flight may use up the cap, wait for them. Raises ApiError if none is in flight and this request
        does not fit.
        """
        # A text never has more tokens than bytes. Most calls cost a fraction of that, so waiting helps.
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
        """Release the reservation of a finished call and count its tokens. `usage` None: the call cost nothing."""
        self._open -= 1
        self._reserved = self._reserved - reserved if self._open else 0.0
        self._settled.set()
        if usage is not None:
            self.count(chars, usage, output_tokens)

    def require(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Raise ApiError if calls of these (characters, output tokens) together are expected to exceed the cap."""
        expected = math.fsum(self._cost(self.tokens(chars) * BATCH_RESERVE, output) for chars, output in sizes)
        if self.cap is not None and self.dollars + expected > self.cap:
            raise self._refusal("batch")

    def _refusal(self, what: str) -> ApiError:
        return ApiError(
            f"judging has cost {self.dollars:.4f} dollars and the {what} could pass judge.max_dollars={self.cap:g}: "
            f"raise it and run again (what was judged is kept)"
        )

    def count(self, chars: int, usage: Mapping[str, Any], output_tokens: int) -> None:
        """Count the tokens of a call as the API reports them; without a report, the expected ones."""
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
