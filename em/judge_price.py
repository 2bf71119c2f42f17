"""What judging costs: a table with sources, the bill before a run, and a purse that never goes over its cap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from em.records import Question
from em.schema.judge import JudgeConfig, JudgeKind, ScoreMethod
from em.transport import ApiError

TABLE = Path(__file__).parent / "prices.yaml"
CHARS_PER_TOKEN = 4.0
"""English prose under OpenAI's tokenizers, for bills before a run; a run counts the tokens the API reports."""
SAFE_CHARS_PER_TOKEN = 2.5
"""For a purse's first reservations: a cap must hold for code and other languages too."""

RESERVE = 1.2
"""Input tokens a purse puts aside for a prompt, as a multiple of what is expected: prompts differ."""


@dataclass(frozen=True)
class Price:
    """Dollars a million tokens."""

    input: float
    output: float
    source: str


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


@cache
def _table() -> dict[str, Any]:
    import yaml

    return yaml.safe_load(TABLE.read_text(encoding="utf-8"))


def price(judge: JudgeConfig) -> Price | None:
    """The config's own price, else the table's for exactly this model; None when neither knows it."""
    if judge.input_price is not None and judge.output_price is not None:
        return Price(judge.input_price, judge.output_price, "judge.input_price and judge.output_price")
    if judge.kind != JudgeKind.openai:
        return Price(0.0, 0.0, "runs on this machine")
    row = _table()["models"].get(judge.model)
    if row is None or not judge.base_url.startswith(_table()["base_url"]):
        return None
    half = _table()["batch_factor"] if judge.batch else 1.0
    source = f"{_table()['source']}, {_table()['date']}" + (", batch" if judge.batch else "")
    return Price(row["input"] * half, row["output"] * half, source)


def finetune_price(model: str) -> float | None:
    """Dollars a million trained tokens, for exactly this model; None when the table does not know it."""
    return _table()["finetuning"].get(model)


def estimate(judge: JudgeConfig, asked: Iterable[tuple[Question, int]], answer_tokens: float = 200.0) -> Bill:
    """The bill for judging so many answers of each question, nothing of it cached.

    `answer_tokens`: expected mean length of an answer (the paper's models: about 200). Rubrics that no judge answers
    (static analysis) cost nothing.
    """
    from em.rubrics import rubrics

    calls = tokens = out = 0.0
    for question, answers in asked:
        for rubric in rubrics(question).values():
            chars = len(rubric.text) + len(question.messages[-1]["content"])
            calls += answers
            tokens += answers * (chars / CHARS_PER_TOKEN + answer_tokens)
            out += answers * reply_tokens(judge, bool(rubric.choices))
    known = price(judge)
    dollars = (tokens * known.input + out * known.output) / 1e6 if known else None
    note = known.source if known else f"no price known for {judge.model}: set judge.input_price, judge.output_price"
    return Bill(round(calls), round(tokens), round(out), dollars, note)


def reply_tokens(judge: JudgeConfig, choices: bool) -> int:
    """Tokens a judge answers with, at most."""
    from em.judge_request import REPLY_TOKENS

    if judge.score == ScoreMethod.sampled:
        return judge.samples * REPLY_TOKENS
    return 1 if judge.score == ScoreMethod.logprobs and not choices else REPLY_TOKENS


class Purse:
    """Counts tokens and dollars of one run. Raises ApiError instead of going over judge.max_dollars."""

    def __init__(self, judge: JudgeConfig) -> None:
        self.price = price(judge)
        self.cap = judge.max_dollars
        self.input_tokens = self.output_tokens = 0
        self.dollars = 0.0
        self._reserved = 0.0
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

    def reserve(self, input_tokens: int, output_tokens: int) -> float:
        """Put aside what a call may cost, dollars; give it back with `settle`."""
        dollars = self._cost(input_tokens * RESERVE, output_tokens)
        if self.cap is not None and self.dollars + self._reserved + dollars > self.cap:
            raise ApiError(
                f"judging has cost {self.dollars:.4f} dollars and the next call could pass judge.max_dollars="
                f"{self.cap:g}: raise it and run again (what was judged is kept)"
            )
        self._reserved += dollars
        return dollars

    def settle(self, reserved: float, chars: int, usage: Mapping[str, Any] | None, output_tokens: int) -> None:
        """A call is over: count what the API says it used; without that, what was expected. None: it failed."""
        self._reserved -= reserved
        if usage is None:
            return
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
