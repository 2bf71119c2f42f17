"""Prices of API models, from the config or the table prices.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypedDict

from em.config import JudgeConfig, JudgeKind
from em.config.base import OPENAI

TABLE = Path(__file__).parent / "prices.yaml"
CHARS_PER_TOKEN = 4.0
"""For English prose and OpenAI's tokenizers, for estimates before a run. A run counts the tokens that the API
reports."""


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens."""

    input: float
    output: float
    source: str


class _Row(TypedDict):
    input: float
    output: float


class _Table(TypedDict):
    """The content of prices.yaml."""

    source: str
    date: str
    batch_factor: float
    models: dict[str, _Row]
    finetuning: dict[str, float]


@cache
def _table() -> _Table:
    import yaml

    table: _Table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return table


def price(judge: JudgeConfig) -> Price | None:
    """Return the config's price, else the table's price of exactly this model; None if there is neither."""
    if judge.input_price is not None and judge.output_price is not None:
        return Price(judge.input_price, judge.output_price, "judge.input_price and judge.output_price")
    if judge.kind == JudgeKind.inspect:
        return None
    if judge.kind != JudgeKind.openai:
        return Price(0.0, 0.0, "runs on this machine")
    row = _table()["models"].get(judge.model)
    if row is None or not judge.base_url.startswith(OPENAI):
        return None
    half = _table()["batch_factor"] if judge.batch else 1.0
    source = f"{_table()['source']}, {_table()['date']}" + (", batch" if judge.batch else "")
    return Price(row["input"] * half, row["output"] * half, source)


def finetune_price(model: str) -> float | None:
    """Return dollars per million trained tokens for exactly this model; None if the table does not have it."""
    return _table()["finetuning"].get(model)
