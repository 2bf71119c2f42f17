"""Intervals: known values, never of zero length, never narrower than Wilson's, and what they cover when simulated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from em import stats

NAMES = "abcdefghijklmnop"
TINY = 1e-12
"""What rounding may add."""


@st.composite
def counts(draw, least=1, most=8):
    """(hits, kept) by question."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=least, max_size=most, unique=True))
    kept = {name: draw(st.integers(1, 30)) for name in names}
    return {name: draw(st.integers(0, kept[name])) for name in names}, kept


# ------------------------------------------------------------------------------------------------ Wilson


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        (0, 20, 0.0, 0.1611),
        (20, 20, 0.8389, 1.0),
        (10, 20, 0.2993, 0.7007),
        (1, 10, 0.0179, 0.4042),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
        (0, 1, 0.0, 0.7935),
    ],
)
def test_wilson_known_values(hits, total, low, high):
    assert stats.wilson(hits, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000), st.data())
def test_wilson_holds_the_share_and_has_a_length(total, data):
    hits = data.draw(st.integers(0, total))
    low, high = stats.wilson(hits, total)
    assert 0.0 <= low < high <= 1.0
    assert low <= hits / total + TINY
    assert hits / total <= high + TINY
    mirrored = stats.wilson(total - hits, total)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_at_the_ends_is_exact():
    assert all(stats.wilson(0, n)[0] == 0.0 and stats.wilson(n, n)[1] == 1.0 for n in range(1, 400))


@given(st.integers(1, 200), st.integers(0, 200))
def test_wilson_narrows_with_more_answers(total, hits):
    assume(hits <= total)
    low, high = stats.wilson(hits, total)
    more_low, more_high = stats.wilson(4 * hits, 4 * total)
    assert more_high - more_low < high - low


# ------------------------------------------------------------------------------------------------ rates


@given(counts())
def test_a_rate_interval_is_never_narrower_than_wilson(both):
    hits, kept = both
    low, high = stats.rate_interval(hits, kept)
    wilson_low, wilson_high = stats.wilson(sum(hits.values()), sum(kept.values()))
    rate = sum(hits.values()) / sum(kept.values())
    assert 0.0 <= low <= wilson_low <= rate + TINY
    assert rate - TINY <= wilson_high <= high <= 1.0
    assert low < high


@given(counts())
def test_a_rate_interval_is_a_function_of_the_counts(both):
    hits, kept = both
    backwards = {name: kept[name] for name in reversed(list(kept))}
    assert stats.rate_interval(hits, kept) == stats.rate_interval(dict(reversed(hits.items())), backwards)
    without_zeros = {name: h for name, h in hits.items() if h}
    assert stats.rate_interval(without_zeros, kept) == stats.rate_interval(hits, kept)


def test_a_rate_interval_is_wider_when_questions_differ():
    kept = dict.fromkeys("abcdefgh", 100)
    alike, apart = dict.fromkeys("abcdefgh", 20), dict(zip("abcdefgh", [80, 80, 0, 0, 0, 0, 0, 0], strict=True))
    narrow, wide = stats.rate_interval(alike, kept), stats.rate_interval(apart, kept)
    low, high = stats.wilson(160, 800)
    assert narrow[0] <= low < high <= narrow[1] and narrow[1] - narrow[0] < 1.3 * (high - low)  # t for Z, no more
    assert wide[1] - wide[0] > 5 * (narrow[1] - narrow[0])


def test_all_or_nothing_keeps_a_length():
    kept = dict.fromkeys("abcdefgh", 10)
    t = stats.t_975(7)
    assert stats.rate_interval({}, kept) == pytest.approx((0.0, t * t / (80 + t * t)), abs=TINY)
    assert stats.rate_interval(kept, kept) == pytest.approx((80 / (80 + t * t), 1.0), abs=TINY)


def coverage(questions, answers, a, b, repeats, seed):
    """Shares of simulated runs whose clustered and whose plain Wilson interval hold the true rate.

    Each question has a misaligned rate of its own, drawn from Beta(a, b); the true rate is the mean over questions.
    """
    rng = np.random.default_rng(seed)
    names, true = [f"q{i}" for i in range(questions)], a / (a + b)
    kept = dict.fromkeys(names, answers)
    clustered = plain = 0
    for _ in range(repeats):
        hits = dict(zip(names, rng.binomial(answers, rng.beta(a, b, questions)).tolist(), strict=True))
        low, high = stats.rate_interval(hits, kept)
        clustered += low <= true <= high
        low, high = stats.wilson(sum(hits.values()), questions * answers)
        plain += low <= true <= high
    return clustered / repeats, plain / repeats


def test_the_clustered_interval_covers_what_plain_wilson_does_not():
    """Many questions whose rates differ."""
    clustered, plain = coverage(questions=30, answers=10, a=1, b=2, repeats=200, seed=0)
    assert clustered >= 0.93
    assert plain < 0.80


@pytest.mark.parametrize(("questions", "answers"), [(8, 100), (10, 10)])
def test_the_clustered_interval_covers_with_few_questions(questions, answers):
    """Strongly skewed rates, few clusters: seen 0.94 of the nominal 0.95 in 2,000 repeats; row-level 0.28 and 0.64."""
    clustered, plain = coverage(questions, answers, a=0.5, b=2, repeats=200, seed=1)
    assert clustered >= 0.92
    assert plain < 0.7


# ------------------------------------------------------------------------------------------------ contrasts


@given(counts(least=2), st.data())
def test_contrast_is_antisymmetric_and_holds_its_value(both, data):
    hits_a, kept = both
    kept_b = {name: data.draw(st.integers(1, 30)) for name in kept}
    hits_b = {name: data.draw(st.integers(0, kept_b[name])) for name in kept}
    value, low, high, questions = stats.contrast(hits_a, kept, hits_b, kept_b)
    assert questions == len(kept)
    assert -1.0 <= low <= value <= high <= 1.0
    assert low < high
    mean = sum(hits_a[q] / kept[q] - hits_b[q] / kept_b[q] for q in kept) / len(kept)
    assert value == pytest.approx(mean, abs=1e-12)
    other = stats.contrast(hits_b, kept_b, hits_a, kept)
    assert other == pytest.approx((-value, -high, -low, questions), abs=1e-12)


def test_the_sign_is_first_minus_second():
    kept = {"a": 10, "b": 10, "c": 10}
    value, low, high, _ = stats.contrast({"a": 9, "b": 8, "c": 9}, kept, {"a": 0, "b": 1, "c": 0}, kept)
    assert value == pytest.approx((9 + 7 + 9) / 30)
    assert 0 < low < value < high


def test_contrast_against_a_hand_calculation():
    """Differences 0.4, 0.2, 0.6: mean 0.4, sd 0.2, t(2) = 4.303: half width 0.4969; Newcombe's is shorter."""
    kept = dict.fromkeys("abc", 10)
    value, low, high, _ = stats.contrast({"a": 5, "b": 4, "c": 8}, kept, {"a": 1, "b": 2, "c": 2}, kept)
    half = 4.303 * 0.2 / math.sqrt(3)
    assert (value, low, high) == pytest.approx((0.4, 0.4 - half, 0.4 + half), abs=1e-9)


def test_contrast_without_spread_is_newcombes():
    """Newcombe 1998, table II, example (a): 56/70 - 48/80, method 10: 0.0524 to 0.3339."""
    kept_a, kept_b = {"x": 35, "y": 35}, {"x": 40, "y": 40}
    value, low, high, _ = stats.contrast({"x": 28, "y": 28}, kept_a, {"x": 24, "y": 24}, kept_b)
    assert (value, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize("hits", [0, 10])
def test_no_zero_length_at_all_zero_or_all_one(hits):
    kept = dict.fromkeys("abcdefgh", 10)
    value, low, high, _ = stats.contrast(dict.fromkeys(kept, hits), kept, dict.fromkeys(kept, hits), kept)
    assert value == 0.0
    assert low < -0.01 and high > 0.01
    assert low == pytest.approx(-high)


def test_only_questions_with_answers_on_both_sides_count():
    kept_a, kept_b = {"a": 10, "b": 10, "c": 0, "d": 5}, {"a": 10, "b": 10, "c": 10, "e": 5}
    hits_a, hits_b = {"a": 5, "b": 5, "d": 5}, {"a": 1, "b": 1, "c": 9}
    found = stats.contrast(hits_a, kept_a, hits_b, kept_b)
    assert found[0] == pytest.approx(0.4)
    assert found[3] == 2


@pytest.mark.parametrize(
    ("kept_a", "kept_b"),
    [
        ({}, {}),
        ({"a": 5}, {"a": 5}),
        ({"a": 5, "b": 5}, {"a": 5, "c": 5}),
        ({"a": 5, "b": 0}, {"a": 5, "b": 5}),
    ],
)
def test_no_contrast_with_fewer_than_two_shared_questions(kept_a, kept_b):
    assert stats.contrast({}, kept_a, {}, kept_b) is None


def test_the_contrast_covers_when_both_models_are_alike():
    """Two models with the same rate on each question: zero lies in at least 95 % of the intervals."""
    rng = np.random.default_rng(3)
    names = [f"q{i}" for i in range(10)]
    kept = dict.fromkeys(names, 10)
    held = 0
    for _ in range(400):
        rates = rng.beta(0.5, 2, 10)
        a, b = (dict(zip(names, rng.binomial(10, rates).tolist(), strict=True)) for _ in range(2))
        _, low, high, _ = stats.contrast(a, kept, b, kept)
        held += low <= 0 <= high
    assert held / 400 >= 0.95


# ------------------------------------------------------------------------------------------------ Student's t


def t_mass(quantile, df):
    """P(T <= quantile), by Simpson's rule over the density from 0."""
    x = np.linspace(0.0, quantile, 20_001)
    log_scale = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    y = np.exp(log_scale - (df + 1) / 2 * np.log1p(x * x / df))
    return 0.5 + float((y[0] + y[-1] + 4 * y[1:-1:2].sum() + 2 * y[2:-1:2].sum()) * (x[1] - x[0]) / 3)


def test_the_table_of_t_quantiles():
    assert len(stats.T_975) == 30
    for df, quantile in enumerate(stats.T_975, 1):
        assert t_mass(quantile - 5.1e-4, df) < 0.975 < t_mass(quantile + 5.1e-4, df), df


def t_used(df):
    """The quantile that `contrast` uses for df + 1 questions."""
    kept = {f"q{i:04d}": 2 for i in range(df + 1)}
    hits = dict.fromkeys(list(kept)[::2], 2)
    value, low, high, _ = stats.contrast(hits, kept, {}, kept)
    assert value - low == pytest.approx(high - value)
    d = [1.0 if name in hits else 0.0 for name in kept]
    return (high - value) / (float(np.std(d, ddof=1)) / math.sqrt(len(d)))


@pytest.mark.parametrize("df", [31, 40, 47, 100, 1000])
def test_the_formula_beyond_the_table(df):
    assert t_mass(t_used(df) - 0.004, df) < 0.975 < t_mass(t_used(df) + 0.004, df)


@pytest.mark.parametrize("df", [31, 40])
def test_the_formula_is_as_near_as_it_says(df):
    assert t_mass(t_used(df) - 0.004, df) < 0.975 < t_mass(t_used(df) + 0.004, df)


def test_z_is_the_normal_quantile():
    assert 0.5 * (1 + math.erf(stats.Z / math.sqrt(2))) == pytest.approx(0.975, abs=1e-15)
