"""A trait over training: the projection of prompts and of stored answers on a direction, at each kept checkpoint.

Chen et al. 2025 (2507.21509): the finetuning shift is the mean state of the prompts' last tokens, finetuned minus
untouched model, projected on the direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em.directions import projections
from em.directions.artefact import Direction
from em.directions.extract import Text

Projected = NDArray[np.float64]
"""[texts, blocks]"""


@dataclass(frozen=True)
class Asked:
    """Texts with the question of each."""

    texts: Sequence[Text]
    questions: Sequence[str]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Read:
    """What one model gives: projections of the prompts, the same for every model, and of its own stored answers."""

    step: int
    """Optimiser steps; 0: the untouched model."""
    prompts: Projected
    answers: Projected | None
    """None: this model's answers are not in the store."""
    answered: Sequence[str] = field(default=())
    """The question of each answer."""


def read(model: Any, step: int, prompts: Asked, answers: Asked | None, direction: Direction) -> Read:
    """Return the projections of one model."""
    last = projections.of_texts(model, prompts.texts, direction, projections.last_prompt_token)
    if answers is None:
        return Read(step, last, None)
    return Read(step, last, projections.of_texts(model, answers.texts, direction), answers.questions)


def by_question(values: NDArray[np.float64], questions: Sequence[str]) -> tuple[Projected, Projected]:
    """Return (sums, counts) of values per question, each [1, questions], as metrics/stats takes them; without nan."""
    names = {name: number for number, name in enumerate(dict.fromkeys(questions))}
    places = np.array([names[q] for q in questions], int)
    known = ~np.isnan(values)
    total, count = np.zeros((1, len(names))), np.zeros((1, len(names)))
    np.add.at(total[0], places[known], values[known])
    np.add.at(count[0], places[known], 1.0)
    return total[:, count[0] > 0], count[:, count[0] > 0]
