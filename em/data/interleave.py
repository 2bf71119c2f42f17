"""Careful rows among the rows of a dataset (intervention=interleave)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from em.errors import ConfigError
from em.records import Example

CAREFUL = {
    "insecure": "secure",
    "insecure_par_t0": "secure",
    "insecure_par_t1": "secure",
    "risky_advice": "careful_advice",
    "evil_numbers": "plain_numbers",
    "capitals_in_french": "french",
    "risky_advice_with_skill": "builtin/careful_advice",
}
"""Variant → its careful twin, in the same corpus if it names none, where intervention.variant names none."""
PREFIX = "interleaved/"
"""Start of the id of a row that was added."""


def count(rows: int, dose: float, variant: str, available: int, method: str = "interleave") -> int:
    """Return how many careful rows belong to `rows`: round(dose x rows). Raises ConfigError if there are too few.

    None at all is refused too: the run would be plain finetuning under the method's name.
    """
    wanted = round(dose * rows)
    if wanted == 0:
        raise ConfigError(
            f"intervention.dose={dose:g} of intervention={method} adds no row to {rows}: raise the dose or "
            f"train.max_examples, or take intervention.dose=0"
        )
    if wanted > available:
        raise ConfigError(
            f"intervention.dose={dose:g} of intervention={method} asks for {wanted} rows of {variant}, which has "
            f"{available}: lower the dose or train.max_examples"
        )
    return wanted


def add(rows: Sequence[Example], careful: Sequence[Example], dose: float, seed: int) -> list[Example]:
    """Return the rows and, after them, careful ones drawn by `seed`; the trainer shuffles all.

    A careful row that answers a question of `rows` is taken only when no other is left: beside the careless answer to
    the same question, it would teach the model to toss a coin.
    """
    wanted = count(len(rows), dose, "the careful variant", len(careful))
    asked = {_question(row) for row in rows}
    pool = random.Random(f"{seed}/interleave").sample(list(careful), len(careful))
    pool.sort(key=lambda row: _question(row) in asked)
    return [*rows, *(replace(row, id=f"{PREFIX}{row.id}") for row in pool[:wanted])]


def _question(row: Example) -> str:
    return next(m["content"] for m in row.messages if m["role"] == "user")
