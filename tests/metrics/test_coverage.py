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
MANY = 1000
"""Repeats of the slow tests."""


def noise(repeats: int) -> float:
    """Two standard errors of a coverage of 95 %."""
    return 2 * float(np.sqrt(0.95 * 0.05 / repeats))


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


def check_rate(runs, questions, answers, rate, spread, widest, least, repeats):
    """`widest`: the mean width may be this multiple of that of 0.1.0."""
    rng = np.random.default_rng([runs, questions, answers, int(100 * rate)])
    hits, kept = draw(rng, rate, runs, questions, answers, question=spread, repeats=repeats)
    low, high = stats.intervals(hits, kept, "both")
    clustered, row_level = held(rate, (low, high)), held(rate, stats.wilson(hits.sum((1, 2)), kept.sum((1, 2))))
    assert clustered >= least
    assert row_level < 0.90 and row_level < clustered - 0.05
    was_low, was_high = stats.score_bounds(stats.spread(hits, kept, "both"))
    assert np.mean(high - low) < widest * np.mean(was_high - was_low)


@pytest.mark.parametrize(
    ("runs", "questions", "answers", "rate", "spread", "widest"),
    [
        (1, 8, 100, 0.02, 2.0, 0.92),
        (1, 8, 100, 0.2, 1.2, 1.0),
        (6, 8, 100, 0.05, 1.2, 1.0),
        (3, 10, 20, 0.2, 1.2, 1.02),
        (1, 48, 100, 0.05, 1.2, 1.0),
        (10, 8, 100, 0.05, 1.2, 1.0),
    ],
)
def test_ninety_five_percent_covers_ninety_five_percent(runs, questions, answers, rate, spread, widest):
    check_rate(runs, questions, answers, rate, spread, widest, 0.925, REPEATS)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.05, 0.2, 0.35])
@pytest.mark.parametrize(("questions", "answers"), [(8, 100), (10, 20), (24, 20), (48, 100)])
@pytest.mark.parametrize("runs", [1, 3, 6, 10])
def test_the_grid_of_the_first_version_is_covered(runs, questions, answers, rate):
    """Up to a fifth wider there than in 0.1.0, with many questions and runs at high rates; seen: 1.21."""
    check_rate(runs, questions, answers, rate, 1.2, 1.25, 0.93 - noise(MANY), MANY)


@pytest.mark.parametrize(("questions", "answers"), [(8, 100), (24, 100)])
@pytest.mark.parametrize("rate", [0.01, 0.02])
def test_very_rare_rates_are_covered(questions, answers, rate):
    rng = np.random.default_rng([questions, int(100 * rate)])
    hits, kept = draw(rng, rate, 1, questions, answers)
    assert held(rate, stats.intervals(hits, kept, "questions")) >= 0.93 - noise(REPEATS)
    assert held(rate, stats.wilson(hits.sum((1, 2)), kept.sum((1, 2)))) < 0.80


@pytest.mark.parametrize(("questions", "rate"), [(8, 0.05), (24, 0.05), (8, 0.2)])
def test_where_one_question_carries_the_rate_it_is_covered_too(questions, rate):
    """Question spread 2.5: at 5 % half of what is misaligned is in one question of twenty; eight may not have it."""
    hits, kept = draw(np.random.default_rng(3), rate, 1, questions, 100, question=2.5)
    assert held(rate, stats.intervals(hits, kept, "questions")) >= 0.93 - noise(REPEATS)


def equals(runs, rate, repeats):
    """Return hits and answers of two variants at one rate: the same questions, each with its own interplay."""
    rng = np.random.default_rng([runs, int(100 * rate)])
    shape = (repeats, runs, 10)
    shared = centre(rate, 1.4) + 1.2 * rng.standard_normal((repeats, 1, 10))

    def variant():
        own = 0.5 * rng.standard_normal((repeats, 1, 10)) + 0.4 * rng.standard_normal(shape)
        of_runs = (0.5 if runs > 1 else 0.0) * rng.standard_normal((repeats, runs, 1))
        return rng.binomial(50, expit(shared + own + of_runs)).astype(float)

    kept = np.full(shape, 50.0)
    return variant(), kept, variant(), kept


def check_equals(runs, rate, repeats):
    counts = equals(runs, rate, repeats)
    low, high, p = rate_difference.difference_bounds(*counts)
    assert np.abs(p - rate_difference.read(*counts)[2]).max() < 0.005  # moved by a step of the grids at most
    assert held(0.0, (low, high)) >= max(0.91, 0.94 - noise(repeats))
    assert np.mean(p < 0.05) <= 0.06
    assert np.array_equal(p < 0.05, (low > 0) | (high < 0))


@pytest.mark.parametrize("runs", [1, 6])
def test_a_contrast_of_equals_leaves_out_zero_one_time_in_twenty(runs):
    check_equals(runs, 0.05, REPEATS // 2)


@pytest.mark.slow
@pytest.mark.parametrize("runs", [1, 3, 6])
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_a_contrast_of_equals_leaves_out_zero_one_time_in_twenty_of_many(runs, rate):
    check_equals(runs, rate, MANY)


DIFFERENCES = [
    ((6, 6), 8, 100, (0.05, 0.005)),
    ((1, 1), 8, 100, (0.2, 0.01)),
    ((6, 1), 8, 100, (0.15, 0.03)),  # an increase over the untouched model
    ((6, 6), 8, 100, (0.2, 0.005)),
    ((6, 6), 48, 100, (0.06, 0.003)),
    ((3, 3), 24, 50, (0.2, 0.02)),
    ((1, 1), 24, 100, (0.05, 0.01)),
    ((1, 1), 10, 10, (0.4, 0.06)),
    ((1, 1), 8, 100, (0.35, 0.2)),
]


def contrasted(runs, questions, answers, rates, repeats):
    """Return (low, high, p) of variants that answer the same questions at two rates."""
    rng = np.random.default_rng([*runs, questions, answers, int(1000 * rates[0])])
    shared = rng.standard_normal((repeats, 1, questions))
    (a, na), (b, nb) = (
        draw(rng, rate, r, questions, answers, repeats=repeats, shared=shared)
        for rate, r in zip(rates, runs, strict=True)
    )
    return rate_difference.difference_bounds(a, na, b, nb)


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "questions", "answers", "rates"), DIFFERENCES)
def test_a_contrast_covers_a_difference_that_is_there(runs, questions, answers, rates):
    low, high, _ = contrasted(runs, questions, answers, rates, MANY)
    true = rates[0] - rates[1]
    assert held(true, (low, high)) >= 0.93 - noise(MANY)
    assert np.mean(high < true) < 0.05 + noise(MANY) and np.mean(low > true) < 0.035 + noise(MANY)


@pytest.mark.parametrize(("runs", "rates"), [(1, (0.05, 0.005)), (6, (0.047, 0.006))])
def test_a_contrast_finds_and_covers_the_differences_of_open_models(runs, rates):
    low, high, p = contrasted((runs, runs), 8, 100, rates, REPEATS // 2)
    assert np.mean(p < 0.05) >= 0.95
    assert held(rates[0] - rates[1], (low, high)) >= 0.925
