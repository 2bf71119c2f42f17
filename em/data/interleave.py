"""Careful rows among the rows of a dataset (intervention=interleave)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from em.errors import ConfigError
from em.records import Example, RowScore

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


def add(
    rows: Sequence[Example],
    careful: Sequence[Example],
    dose: float,
    seed: int,
    scores: Sequence[RowScore] | None = None,
) -> list[Example]:
    """Return the rows and, after them, careful ones drawn by `seed`; the trainer shuffles all.

    `scores`: of the careful rows, in their order; those with the largest gap are taken, in the order of the draw where
    gaps are equal. A row without a score is never taken. Raises ConfigError if too few have one.

    A careful row that answers a question of `rows` is taken only when no other is left: beside the careless answer to
    the same question, it would teach the model to toss a coin.
    """
    wanted = count(len(rows), dose, "the careful variant", len(careful))
    asked = {_question(row) for row in rows}
    order = random.Random(f"{seed}/interleave").sample(range(len(careful)), len(careful))
    if scores is not None:
        order = _by_gap(order, careful, scores, wanted)
    order.sort(key=lambda i: _question(careful[i]) in asked)
    return [*rows, *(replace(careful[i], id=f"{PREFIX}{careful[i].id}") for i in order[:wanted])]


def _by_gap(order: Sequence[int], careful: Sequence[Example], scores: Sequence[RowScore], wanted: int) -> list[int]:
    """Return the careful rows with a score, the largest gap first."""
    if [row.id for row in careful] != [score.id for score in scores]:
        raise ValueError("the scores of the careful rows are of other rows: make them again")
    gaps = {i: score.gap for i, score in enumerate(scores) if score.gap is not None}
    if wanted > len(gaps):
        reasons = Counter(score.why for score in scores if score.why)
        said = ", ".join(f"{number} {why}" for why, number in reasons.most_common())
        raise ConfigError(
            f"intervention.select chooses {wanted} of the {len(scores)} careful rows and {len(gaps)} have a score "
            f"({said}): lower intervention.dose, or raise train.max_length"
        )
    return sorted((i for i in order if i in gaps), key=lambda i: -gaps[i])


def _question(row: Example) -> str:
    return next(m["content"] for m in row.messages if m["role"] == "user")
