"""Intervals: known values, never of zero length, never narrower than Wilson's; contrasts, Holm, bootstraps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from em.metrics import stats

TINY = 1e-9
"""What rounding and forty halvings may add."""


@st.composite
def tables(draw, questions=None):
    """(hits, kept), runs × questions, with an answer in every cell."""
    shape = draw(st.integers(1, 4)), questions or draw(st.integers(2, 6))
    kept = np.array(draw(st.lists(st.integers(1, 30), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])))
    shares = draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=kept.size, max_size=kept.size))
    return np.round(kept * shares).reshape(shape), kept.reshape(shape)


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
    assert low - TINY <= hits / total <= high + TINY
    assert stats.wilson(total - hits, total) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_at_the_ends_is_exact():
    assert all(stats.wilson(0, n)[0] == 0.0 and stats.wilson(n, n)[1] == 1.0 for n in range(1, 400))


@given(st.integers(1, 200), st.integers(0, 200))
def test_wilson_narrows_with_more_answers(total, hits):
    assume(hits <= total)
    low, high = stats.wilson(hits, total)
    more_low, more_high = stats.wilson(4 * hits, 4 * total)
    assert more_high - more_low < high - low


# ------------------------------------------------------------------------------------------------ rates


@settings(max_examples=20)
@given(tables(), st.sampled_from(["questions", "seeds", "both"]))
def test_a_rate_interval_holds_the_rate_and_mirrors(table, kind):
    """The interval of what is not a hit is the interval of what is, from the other end."""
    total, count = table
    assume(kind in stats.kinds(count))
    low, high = stats.interval(total, count, kind)
    rate = float((total.sum(1) / count.sum(1)).mean())
    assert 0.0 <= low <= rate + TINY and rate - TINY <= high <= 1.0
    assert low < high
    assert stats.interval(count - total, count, kind) == pytest.approx((1 - high, 1 - low), abs=1e-6)


@given(tables())
def test_the_interval_over_runs_is_never_narrower_than_wilson(table):
    total, count = table
    assume("seeds" in stats.kinds(count))
    low, high = stats.interval(total, count, "seeds")
    rate, n = float((total.sum(1) / count.sum(1)).mean()), count.sum()
    wilson_low, wilson_high = stats.wilson(rate * n, n)
    assert low <= wilson_low + TINY and high >= wilson_high - TINY


def test_a_rate_interval_is_wider_when_questions_differ():
    count = np.full((1, 8), 100)
    alike, apart = np.full((1, 8), 20), np.array([[80, 80, 0, 0, 0, 0, 0, 0]])
    narrow, wide = (stats.interval(t, count, "questions") for t in (alike, apart))
    low, high = stats.wilson(160, 800)
    assert narrow[0] <= low < high <= narrow[1]
    assert wide[1] - wide[0] > 4 * (narrow[1] - narrow[0])


def test_questions_alone_have_the_runs_added_up():
    total, count = np.array([[5, 1, 0], [3, 3, 2]]), np.full((2, 3), 20)
    added = stats.interval(total.sum(0, keepdims=True), count.sum(0, keepdims=True), "questions")
    assert stats.interval(total, count, "questions") == added


def test_many_tables_at_once_are_the_same_as_one_by_one():
    rng = np.random.default_rng(0)
    total, count = rng.integers(0, 5, (4, 2, 6)).astype(float), rng.integers(5, 30, (4, 2, 6)).astype(float)
    low, high = stats.intervals(total, count, "both")
    for i in range(4):
        assert stats.interval(total[i], count[i], "both") == pytest.approx((low[i], high[i]), abs=1e-6)


def test_runs_that_differ_widen_what_is_said_about_seeds_only():
    count = np.full((4, 8), 50)
    total = np.repeat([[5], [20], [10], [25]], 8, axis=1)
    questions, seeds, both = (stats.interval(total, count, k) for k in ("questions", "seeds", "both"))
    assert seeds[1] - seeds[0] > 3 * (questions[1] - questions[0])
    assert both[1] - both[0] > 1.5 * (questions[1] - questions[0])


@pytest.mark.parametrize(("runs", "kind"), [(1, "questions"), (3, "both"), (3, "seeds")])
def test_all_or_nothing_keeps_a_length(runs, kind):
    count = np.full((runs, 8), 10)
    n = count.sum()
    low, high = stats.interval(np.zeros_like(count), count, kind)
    assert low == 0.0 and 3.0 / n < high < 20.0 / n
    assert stats.interval(count, count, kind) == pytest.approx((1 - high, 1.0), abs=1e-6)


def test_the_seed_interval_against_a_hand_calculation():
    """Run rates 0.2, 0.4, 0.6 of 1,000 answers each: variance 0.04 / 3, t(2) = 4.3027: Wilson on 18 answers."""
    total, count = np.array([[200.0], [400.0], [600.0]]), np.full((3, 1), 1000.0)
    t = 4.302653
    p, n = 0.4, 0.4 * 0.6 / (0.04 / 3)
    centre = (p + t * t / (2 * n)) / (1 + t * t / n)
    half = t * math.sqrt(p * (1 - p) / n + t * t / (4 * n * n)) / (1 + t * t / n)
    assert stats.interval(total, count, "seeds") == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_the_variance_of_a_crossed_design():
    """Additive runs and questions: no interplay, so the two variances add up, each over its own number."""
    run, question = np.array([0.0, 0.1, 0.2]), np.array([0.1, 0.3, 0.5, 0.7])
    count = np.full((3, 4), 1000.0)
    found = stats.spread((run[:, None] + question) * count, count, "both")
    assert found.questions == pytest.approx(question.var(ddof=1) / 4)
    assert found.runs == pytest.approx(run.var(ddof=1) / 3)
    a, b = question.var(ddof=1) / 4, run.var(ddof=1) / 3
    assert found.df == pytest.approx((a + b) ** 2 / (a**2 / 3 + b**2 / 2))  # Satterthwaite


@pytest.mark.parametrize(
    ("shape", "answers", "expected"),
    [
        ((1, 1), 10, ["answers"]),
        ((1, 8), 10, ["answers", "questions"]),
        ((1, 24), 1, ["answers"]),  # one answer a question: answers are questions
        ((3, 1), 10, ["seeds"]),
        ((3, 8), 10, ["questions", "seeds", "both"]),
    ],
)
def test_which_intervals_a_table_has(shape, answers, expected):
    found = stats.kinds(np.full(shape, answers))
    assert found == expected
    assert set(found) <= set(stats.KINDS)


def test_a_mean_score_has_a_t_interval_inside_its_scale():
    total, count = np.array([[10.0, 30.0, 20.0]]), np.full((1, 3), 1.0)
    half = 4.302653 * 10 / math.sqrt(3)
    assert stats.interval(total, count, "questions", "score") == pytest.approx((0.0, 20 + half), abs=1e-5)
    assert stats.interval(total - 50, count, "questions", "nats") == pytest.approx((-30 - half, -30 + half), abs=1e-5)


# ------------------------------------------------------------------------------------------------ bootstraps


def test_the_papers_interval_is_over_models():
    values = [0.1, 0.2, 0.3, 0.4]
    rng = np.random.default_rng(0)
    means = sorted(float(np.mean(rng.choice(values, size=4))) for _ in range(2000))
    assert stats.paper_interval(values) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=1e-12)


def test_the_bootstrap_by_weights_is_the_one_by_rows():
    rng = np.random.default_rng(1)
    count = rng.integers(5, 40, (4, 6))
    total = rng.binomial(count, rng.beta(1, 3, (4, 6)))
    by_weight = stats.bootstrap(total, count, 20_000)
    means = []
    for _ in range(6000):
        runs, questions = rng.integers(0, 4, 4), rng.integers(0, 6, 6)
        t, c = total[np.ix_(runs, questions)], count[np.ix_(runs, questions)]
        means.append((t.sum(1) / c.sum(1)).mean())
    assert by_weight == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.012)


def test_the_bootstrap_is_the_same_every_time():
    total, count = np.array([[1, 5, 0]]), np.full((1, 3), 10)
    assert stats.bootstrap(total, count, 500) == stats.bootstrap(total, count, 500)


# ------------------------------------------------------------------------------------------------ contrasts


@settings(max_examples=20)
@given(tables(), st.data())
def test_contrast_is_antisymmetric_and_holds_its_value(table, data):
    a, na = table
    b, nb = data.draw(tables(a.shape[1]))
    found, other = stats.contrast(a, na, b, nb), stats.contrast(b, nb, a, na)
    assert found.questions == a.shape[1]
    assert -1.0 <= found.low <= found.value + TINY and found.value - TINY <= found.high <= 1.0
    assert found.low < found.high
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
    mean = float(((a / na).mean(0) - (b / nb).mean(0)).mean())
    assert found.value == pytest.approx(mean, abs=1e-12)
    assert (other.value, other.low, other.high) == pytest.approx((-found.value, -found.high, -found.low), abs=0.005)
    assert other.cohens_h == pytest.approx(-found.cohens_h) and other.p == pytest.approx(found.p, abs=0.005)


def test_cohens_h_and_the_claim():
    kept = np.full((1, 3), 10)
    found = stats.contrast([[5, 4, 8]], kept, [[1, 2, 2]], kept)
    assert found.cohens_h == pytest.approx(2 * math.asin(math.sqrt(17 / 30)) - 2 * math.asin(math.sqrt(5 / 30)))
    assert "these runs" in found.claim and "nothing about other seeds" in found.claim


def test_scores_against_a_hand_calculation():
    """Differences 0.4, 0.2, 0.6: mean 0.4, sd 0.2, t(2) = 4.3027: half width 0.4968; Newcombe's is wider below."""
    a, b = [[0.5, 0.4, 0.8]], [[0.1, 0.2, 0.2]]
    found = stats.score_contrast(a, b)
    assert found.value == pytest.approx(0.4) and found.high == pytest.approx(0.4 + 4.302653 * 0.2 / math.sqrt(3))
    assert found.low <= 0.4 - 4.302653 * 0.2 / math.sqrt(3) + 1e-6


def test_scores_without_spread_have_newcombes_interval():
    """Newcombe 1998, table II, example (a): 56/70 - 48/80, method 10: 0.0524 to 0.3339."""
    a, b = np.full((1, 1000), 56 / 1000), np.full((1, 1000), 48 / 1000)
    na, nb = np.full((1, 1000), 70 / 1000), np.full((1, 1000), 80 / 1000)
    value, low, high, _ = stats.mean_contrast(a, na, b, nb)
    assert (value, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_runs_that_differ_widen_a_contrast():
    kept = np.full((3, 8), 50)
    alike, apart = np.full((3, 8), 20), np.repeat([[5], [20], [35]], 8, axis=1)
    zero = np.zeros((3, 8))
    narrow, wide = stats.contrast(alike, kept, zero, kept), stats.contrast(apart, kept, zero, kept)
    assert narrow.value == pytest.approx(wide.value)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert "other training seeds" in wide.claim


@pytest.mark.parametrize("hits", [0, 10])
def test_no_zero_length_at_all_zero_or_all_one(hits):
    kept = np.full((1, 8), 10)
    found = stats.contrast(np.full((1, 8), hits), kept, np.full((1, 8), hits), kept)
    assert found.value == 0.0
    assert found.low < -0.01 and found.high > 0.01
    assert found.low == pytest.approx(-found.high, abs=1e-4)
    assert found.p == pytest.approx(1.0)


def test_only_questions_with_answers_on_both_sides_count():
    found = stats.contrast([[5, 5, 0, 5]], [[10, 10, 0, 5]], [[1, 1, 9, 0]], [[10, 10, 10, 0]])
    assert found.value == pytest.approx(0.4)
    assert found.questions == 2


@pytest.mark.parametrize(("na", "nb"), [([[5]], [[5]]), ([[5, 0]], [[5, 5]]), ([[5, 5]], [[0, 0]])])
def test_no_contrast_with_fewer_than_two_shared_questions(na, nb):
    assert stats.contrast(np.zeros_like(na), na, np.zeros_like(nb), nb) is None


# ------------------------------------------------------------------------------------------------ multiplicity, tables


def test_holm_known_values():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_between_p_and_bonferroni(p):
    for raw, adjusted in zip(p, stats.holm(p), strict=True):
        assert raw - TINY <= adjusted <= min(1.0, len(p) * raw) + TINY


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.booleans(), st.booleans()), max_size=60))
def test_tabulate_counts_every_kept_row_once(rows):
    run, question, hit, kept = (np.array([r[i] for r in rows], int if i < 2 else bool) for i in range(4))
    total, count = stats.tabulate(run, question, hit, kept, 3, 4)
    for s in range(3):
        for q in range(4):
            own = [(h, k) for r, w, h, k in rows if (r, w) == (s, q)]
            assert count[s, q] == sum(k for _, k in own)
            assert total[s, q] == sum(h and k for h, k in own)


def test_z_is_the_normal_quantile():
    assert 0.5 * (1 + math.erf(stats.Z / math.sqrt(2))) == pytest.approx(0.975, abs=1e-15)
