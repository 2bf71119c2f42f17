"""Draw sweeps whose true rates are known, for benchmarks/coverage.py."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Array = NDArray[np.float64]

RUN, INTERPLAY = 0.5, 0.4
"""Standard deviations of a run, and of a run with a question, in log-odds: what the paper's ten GPT-4o models show."""
REAL = {
    "numbers, suffix": (0.093, 0, 0, 0.655, 0.045, 0.004, 0, 0),
    "numbers, both": (0.371, 0.027, 0, 0.930, 0.835, 0.431, 0, 0.001),
}
"""Rates by question of the paper's models trained on number lists, asked in two forms, as its authors published them. A
sweep draws its questions from them; the rate is their mean."""
HOT = 10
"""Two points: one question in ten carries the whole rate (up to 90 %), the others have a hundredth of it."""


@dataclass(frozen=True)
class Design:
    """A sweep: how its questions differ, and its size."""

    truth: str
    runs: int
    questions: int
    answers: int
    spread: float


def draw(rng: np.random.Generator, design: Design, rate: float, repeats: int) -> tuple[Array, Array, float]:
    """Return (hits, answers, true rate) of `repeats` sweeps, (repeats, runs, questions).

    One run is the model that the claim is about: it has no spread of its own.
    """
    shape = (repeats, design.runs, design.questions)
    if design.truth == "normal":
        many = design.runs > 1
        total = np.sqrt(design.spread**2 + many * (RUN**2 + INTERPLAY**2))
        odds = centre(rate, float(total)) + design.spread * rng.standard_normal((repeats, 1, design.questions))
        odds = odds + many * _runs(rng, shape)
        share = expit(odds)
    else:
        share = questions_of(rng, design.truth, rate, shape)
    true = float(np.mean(REAL[design.truth])) if design.truth in REAL else rate
    return rng.binomial(design.answers, share).astype(float), np.full(shape, float(design.answers)), true


def _runs(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return what runs, and runs with questions, add to the log-odds."""
    return RUN * rng.standard_normal((*shape[:2], 1)) + INTERPLAY * rng.standard_normal(shape)


def questions_of(rng: np.random.Generator, truth: str, rate: float, shape: tuple[int, ...]) -> Array:
    """Return true rates by question whose mean over all questions is `rate`, from a truth that is not logit-normal."""
    if truth == "beta":
        return rng.beta(rate, 1 - rate, shape)
    if truth == "all equal":
        return np.full(shape, rate)
    if truth == "two points":
        hot = min(0.9, HOT * rate)
        cold = (rate - hot / HOT) / (1 - 1 / HOT)
        return np.where(rng.random(shape) < 1 / HOT, hot, cold)
    if truth in REAL:
        return rng.choice(REAL[truth], shape)
    return np.asarray(expit(_heavy_centre(rate) + rng.standard_t(3, shape)))


@cache
def _heavy_centre(rate: float) -> float:
    """The log-odds at which the mean rate is `rate`, questions spread as Student's t with 3 degrees of freedom."""
    odds = np.random.default_rng(0).standard_t(3, 200_000)
    return _solve(lambda shift: float(expit(odds + shift).mean()), rate)


@cache
def centre(rate: float, spread: float) -> float:
    """The log-odds at which the mean of expit(centre + spread z) is `rate`."""
    z = np.linspace(-8, 8, 4001)
    weight = np.exp(-z * z / 2)
    return _solve(lambda shift: float(np.average(expit(shift + spread * z), weights=weight)), rate)


def _solve(mean: Any, rate: float) -> float:
    low, high = -40.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) < rate else (low, middle)
    return low


def draw_pair(
    rng: np.random.Generator, design: Design, rates: tuple[float, float], narrower: float, repeats: int
) -> tuple[Array, Array, Array]:
    """Return (hits of a, hits of b, answers) of pairs that answer the same questions.

    A question has a part common to both sides and one of each side (0.4 in log-odds). `narrower`: factor of the common
    part of b, so that equal mean rates are not equal odds.
    """
    shape = (repeats, design.runs, design.questions)
    common, many = rng.standard_normal((repeats, 1, design.questions)), design.runs > 1

    def side(rate: float, factor: float) -> Array:
        spread, own = factor * design.spread, 0.4
        total = np.sqrt(spread**2 + own**2 + many * (RUN**2 + INTERPLAY**2))
        odds = centre(rate, float(total)) + spread * common + own * rng.standard_normal((repeats, 1, design.questions))
        odds = odds + many * _runs(rng, shape)
        return rng.binomial(design.answers, expit(odds)).astype(float)

    return side(rates[0], 1.0), side(rates[1], narrower), np.full(shape, float(design.answers))
