"""api.prices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from em.config import JudgeConfig, JudgeKind
from em.config.base import OPENAI

TABLE = Path(__file__).parent / "prices.yaml"
CHARS_PER_TOKEN = 4.0
"""English prose under OpenAI's tokenizers, for bills before a run; a run counts the tokens the API reports."""


@dataclass(frozen=True)
class Price:
    """Dollars a million tokens."""

    input: float
    output: float
    source: str


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
    if row is None or not judge.base_url.startswith(OPENAI):
        return None
    half = _table()["batch_factor"] if judge.batch else 1.0
    source = f"{_table()['source']}, {_table()['date']}" + (", batch" if judge.batch else "")
    return Price(row["input"] * half, row["output"] * half, source)


def finetune_price(model: str) -> float | None:
    """Dollars a million trained tokens, for exactly this model; None when the table does not know it."""
    return _table()["finetuning"].get(model)
