"""What the intervals cover when answers are drawn from runs and questions that differ: nominal 95 %.

A few cells of the grid of benchmarks/coverage.py, which has the whole: rates are logit-normal over questions, runs, and
both together. The true rate is the mean over all questions and runs there could be.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from em.metrics import rate_difference, stats

REPEATS = 400
"""Repeats that leave a coverage 2 points of noise (two standard errors)."""


def centre(rate, spread):
    """The log-odds at which the mean of expit(centre + spread x N(0, 1)) is `rate`."""
    x = np.linspace(-7, 7, 2001)
    weight = np.exp(-x * x / 2)
    low, high = -15.0, 15.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.average(expit(middle + spread * x), weights=weight) < rate else (low, middle)
    return low


def draw(rng, rate, runs, questions, answers, question=1.2, run=0.5, interplay=0.4, repeats=REPEATS, shared=None):
    """(hits, kept) of `repeats` sweeps; a single run is the model the claim is about, so it has no spread of its own.

    `shared`: what another variant's questions have in common with these, of standard deviation 1.
    """
    run = run if runs > 1 else 0.0
    shape = (repeats, runs, questions)
    shared = rng.standard_normal((repeats, 1, questions)) if shared is None else shared
    odds = centre(rate, np.sqrt(question**2 + run**2 + interplay**2)) + interplay * rng.standard_normal(shape)
    odds = odds + question * shared + run * rng.standard_normal((repeats, runs, 1))
    return rng.binomial(answers, expit(odds)).astype(float), np.full(shape, float(answers))


def held(true, bounds):
    return float(np.mean((bounds[0] <= true) & (true <= bounds[1])))


@pytest.mark.parametrize(
    ("runs", "questions", "answers", "rate", "spread"),
    [(1, 8, 100, 0.02, 2.0), (1, 8, 100, 0.2, 1.2), (6, 8, 100, 0.05, 1.2), (3, 10, 20, 0.2, 1.2)],
)
def test_ninety_five_percent_covers_ninety_five_percent(runs, questions, answers, rate, spread):
    rng = np.random.default_rng([runs, questions, answers, int(100 * rate)])
    hits, kept = draw(rng, rate, runs, questions, answers, question=spread)
    low, high = stats.intervals(hits, kept, "both")
    assert held(rate, (low, high)) >= 0.925
    assert held(rate, stats.wilson(hits.sum((1, 2)), kept.sum((1, 2)))) < 0.90
    was_low, was_high = stats.score_bounds(stats.spread(hits, kept, "both"))
    assert np.mean(high - low) < 1.02 * np.mean(was_high - was_low)  # about as wide at rates of 20 %, narrower below


@pytest.mark.parametrize("runs", [1, 6])
def test_a_contrast_of_equals_leaves_out_zero_one_time_in_twenty(runs):
    low, high, p = contrasted(runs, (0.05, 0.05))
    assert held(0.0, (low, high)) >= 0.91
    assert np.array_equal(p < 0.05, (low > 0) | (high < 0))


@pytest.mark.parametrize(("runs", "rates"), [(1, (0.05, 0.005)), (6, (0.047, 0.006))])
def test_a_contrast_finds_and_covers_a_difference_that_is_there(runs, rates):
    low, high, p = contrasted(runs, rates)
    assert np.mean(p < 0.05) >= 0.88
    assert held(rates[0] - rates[1], (low, high)) >= 0.9


def contrasted(runs, rates):
    rng, repeats = np.random.default_rng([runs, int(1000 * rates[0])]), REPEATS // 4
    shared = rng.standard_normal((repeats, 1, 8))
    (a, na), (b, nb) = (draw(rng, rate, runs, 8, 100, repeats=repeats, shared=shared) for rate in rates)
    return rate_difference.difference_bounds(a, na, b, nb)
