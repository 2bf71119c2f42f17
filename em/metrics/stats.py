"""Intervals and contrasts on counts by run and question. Sufficient statistics only; no row is ever touched.

A table is two arrays of one shape, (..., runs, questions): `total`, the successes (or the sum of scores), and `count`,
the answers in the denominator. Leading axes are tables of their own, so a simulation is one call.

Which interval answers which claim is in KINDS. A rate beyond the questions asked has the model of rate_interval, a mean
score the mean squares of the crossed design (degrees of freedom by Satterthwaite 1946). Reasons: docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from em.metrics import rate_difference, rate_interval

Array = NDArray[np.float64]
Z = 1.959963984540054
KINDS = {
    "answers": ("95 %, Wilson over answers", "this model on these very questions: what more answers would give"),
    "questions": ("95 %, over questions", "these runs on questions like these; says nothing about other seeds"),
    "seeds": ("95 %, over runs", "other training seeds on these very questions"),
    "both": ("95 %, over questions and runs", "other training seeds on questions like these"),
    "paper": (
        "95 %, percentile bootstrap over models (2,000 resamples)",
        "the paper's: other training seeds on these very questions; too narrow with few runs",
    ),
    "bootstrap": (
        "95 %, percentile bootstrap over runs and questions",
        "other training seeds on questions like these (one run: questions like these); too narrow with few of either",
    ),
}
"""kind → (the interval in words, the claim it answers)."""
SUBSETS = {
    "seeds": ("95 %, over data subsets", "other subsets of the data and other seeds, on these very questions"),
    "both": (
        "95 %, over questions and data subsets",
        "other subsets of the data and other seeds, on questions like these",
    ),
}
"""The same where a group's runs were trained on several subsets of one size: the runs of a subset are one cluster."""
ENDS = {"score": (0.0, 100.0), "probability": (0.0, 1.0), "words": (0.0, math.inf)}
"""Unit of a mean → the ends of its scale."""
CONTRAST = ("95 %, paired by question, over questions{}", "{} on questions like these{}")
SCORES = "95 %, paired by sample: the wider of t over samples and Newcombe's"
POOLED = ("questions", "both")
"""Kinds of a rate that have the model of rate_interval."""


def wilson(hits: Any, total: Any) -> tuple[Array, Array]:
    """95 % score interval of hits / total, total > 0 (Wilson 1927). Never of zero length, also at 0 of n."""
    hits, total = np.asarray(hits, float), np.asarray(total, float)
    return _score(hits / total, total, np.asarray(Z))


def _score(p: Array, n: Array, z: Array) -> tuple[Array, Array]:
    """Wilson's interval for share `p` of `n` answers (n may be an effective number), `z` the normal or t quantile."""
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low, high = np.maximum(0.0, centre - half), np.minimum(1.0, centre + half)
    return np.where(p <= 0, 0.0, low)[()], np.where(p >= 1, 1.0, high)[()]  # [()]: a number stays a number


@dataclass(frozen=True)
class Spread:
    """A mean over runs of ratios, and where its variance comes from."""

    value: Array
    answers: Array
    """Answers in the denominator."""
    questions: Array
    """Variance of `value` through the questions, with what comes from the answers."""
    runs: Array
    """Variance on top of that through the runs."""
    df: Array
    """Degrees of freedom of the sum of both."""


def spread(total: Any, count: Any, over: str) -> Spread:
    """Mean over runs of total / count, and its variance `over` questions, seeds or both.

    Each run's ratio is linearised (Cochran 1977, ch. 6), which leaves one number a run and question: a crossed
    design with one observation a cell. Needs an answer in every run, and two questions, two runs, or two of both.
    """
    total, count = np.asarray(total, float), np.asarray(count, float)
    runs, questions = total.shape[-2:]
    answers = count.sum(-1, keepdims=True)
    ratio = total.sum(-1, keepdims=True) / answers
    cell = ratio + (total - ratio * count) * questions / answers
    by_question, by_run = cell.mean(-2), cell.mean(-1)
    value = by_run.mean(-1)
    zero = np.zeros_like(value)
    if over == "seeds":
        return Spread(value, answers.sum((-2, -1)), by_run.var(-1, ddof=1) / runs, zero, zero + (runs - 1))
    through_questions = by_question.var(-1, ddof=1) / questions
    if over == "questions" or runs == 1:
        return Spread(value, answers.sum((-2, -1)), through_questions, zero, zero + (questions - 1))
    through_runs = by_run.var(-1, ddof=1) / runs
    rest = cell - by_question[..., None, :] - by_run[..., :, None] + value[..., None, None]
    free = (runs - 1) * (questions - 1)
    interplay = (rest**2).sum((-2, -1)) / free / (runs * questions)
    extra = np.maximum(0.0, through_runs - interplay)
    parts = through_questions**2 / (questions - 1) + np.where(
        extra > 0, through_runs**2 / (runs - 1) + interplay**2 / free, 0.0
    )
    df = np.where(parts > 0, (through_questions + extra) ** 2 / np.where(parts > 0, parts, 1.0), questions - 1.0)
    return Spread(value, answers.sum((-2, -1)), through_questions, extra, np.maximum(df, 1.0))


def score_bounds(found: Spread) -> tuple[Array, Array]:
    """95 % interval of a rate over runs; the wider, on each side, of two score intervals: never narrower than Wilson's.

    A score interval asks which true rates would make the one seen unlikely, so it needs the variance at those rates.
    The first takes it as x(1 - x) times a constant (Wilson's on an effective number of answers). The second lets the
    questions' part grow as (x(1 - x))². Release 0.1.0 used it over questions, too.
    """
    p, t = found.value, stdtrit(found.df, 0.975)
    inner, open_ = p * (1 - p), (p > 0) & (p < 1)
    safe = np.where(open_, inner, 1.0)
    floor = safe / found.answers
    questions = np.where(open_, np.maximum(found.questions - floor, 0.0), 0.0)
    runs = np.where(open_, found.runs, 0.0)
    effective = np.where(open_, safe / (floor + questions + runs), found.answers)
    low, high = _score(p, effective, t)

    def likely(x: Array) -> NDArray[np.bool_]:
        u = x * (1 - x) / safe
        return np.asarray(np.abs(x - p) <= t * np.sqrt(x * (1 - x) / found.answers + questions * u * u + runs * u))

    return np.minimum(low, _edge(likely, p, np.zeros_like(p))), np.maximum(high, _edge(likely, p, np.ones_like(p)))


def _edge(likely: Any, inside: Array, outside: Array) -> Array:
    """Where `likely` ends between a point inside and one outside, by bisection."""
    for _ in range(40):
        middle = (inside + outside) / 2
        holds = likely(middle)
        inside, outside = np.where(holds, middle, inside), np.where(holds, outside, middle)
    return outside


def mean_bounds(found: Spread, least: float = -np.inf, most: float = np.inf) -> tuple[Array, Array]:
    """95 % t interval of a mean score, cut at the ends of the scale."""
    half = stdtrit(found.df, 0.975) * np.sqrt(found.questions + found.runs)
    return np.maximum(least, found.value - half), np.minimum(most, found.value + half)


def kinds(count: NDArray[Any], unit: str = "share") -> list[str]:
    """Which kinds of interval a table (runs, questions) has, the widest claim last."""
    runs, questions = count.shape
    share = unit == "share"
    single = share and runs == 1 and bool(count.max() <= 1)  # one answer a question: answers are questions
    found = {
        "answers": share and runs == 1,
        "questions": questions > 1 and not single,
        "seeds": runs > 1,
        "both": runs > 1 and questions > 1,
    }
    return [kind for kind, has in found.items() if has]


def interval(total: NDArray[Any], count: NDArray[Any], kind: str, unit: str = "share") -> tuple[float, float]:
    """[low, high] of the mean over runs of one table (runs, questions)."""
    total, count = np.asarray(total, float), np.asarray(count, float)
    if unit == "share" and kind in POOLED:
        low, high = intervals(total[None], count[None], kind)
        return float(low[0]), float(high[0])
    if kind == "answers":
        low, high = wilson(total.sum(), count.sum())
    elif unit == "share":
        low, high = score_bounds(spread(total, count, kind))
    else:
        low, high = mean_bounds(spread(total, count, kind), *ENDS.get(unit, ()))
    return float(low), float(high)


def intervals(total: Array, count: Array, kind: str) -> tuple[Array, Array]:
    """Ends of rates over questions (kind "questions"), or over questions and runs ("both"), which hold the rates.

    Tables (tables, runs, questions) with an answer in every run; a question without any answer does not count.
    """
    value = (total.sum(-1) / count.sum(-1)).mean(-1)
    if kind == "questions":
        total, count = total.sum(1, keepdims=True), count.sum(1, keepdims=True)
    low, high = rate_interval.rate_bounds(total, count)
    return np.minimum(low, value), np.maximum(high, value)


def paper_interval(values: Sequence[float]) -> tuple[float, float]:
    """The paper's: percentile bootstrap over models, 2,000 resamples, default_rng(0) (its first_plot.py)."""
    means = np.random.default_rng(0).choice(np.asarray(values, float), size=(2000, len(values))).mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def bootstrap(total: Any, count: Any, replicates: int, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of a rate over resampled runs and questions (Owen 2007), by weights on the counts.

    One run is not resampled. A replicate in which a drawn run has no answer leaves that run out.
    """
    total, count = np.asarray(total, float), np.asarray(count, float)
    runs, questions = total.shape
    rng = np.random.default_rng(seed)
    by_question = rng.multinomial(questions, np.full(questions, 1 / questions), size=replicates).astype(float)
    by_run = rng.multinomial(runs, np.full(runs, 1 / runs), size=replicates).astype(float)
    answers = by_question @ count.T
    weight = by_run * (answers > 0)
    rates = by_question @ total.T / np.where(answers > 0, answers, 1.0)
    weights = weight.sum(1)
    means = (weight * rates).sum(1)[weights > 0] / weights[weights > 0]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """a - b: the mean over shared questions of the difference of their rates, each a mean over runs."""

    value: float
    low: float
    high: float
    questions: int
    cohens_h: float
    """Difference of the arcsine-transformed mean rates (Cohen 1988): 0.2 is small, 0.5 medium, 0.8 large."""
    p: float
    """Two-sided, of no difference; below 0.05 just when the interval leaves out zero."""
    interval: str
    claim: str


def contrast(total_a: Any, count_a: Any, total_b: Any, count_b: Any) -> Contrast | None:
    """Contrast two rates, paired by question (the same columns in both tables), by rate_difference.

    None with fewer than two questions answered by every run of both sides. Runs of a and b are taken as independent.
    With one run on a side nothing is claimed about its other seeds.
    """
    shared = _shared(total_a, count_a, total_b, count_b)
    if shared is None:
        return None
    a, na, b, nb = shared
    value = float((a / na).mean() - (b / nb).mean())
    low, high, p = (float(x[0]) for x in rate_difference.difference_bounds(a[None], na[None], b[None], nb[None]))
    low, high = min(low, value), max(high, value)
    if low <= 0 <= high:
        p = max(p, 0.05)
    return _contrast(shared, (value, low, high, p), CONTRAST[0])


def score_contrast(a: Any, b: Any) -> Contrast | None:
    """Contrast mean scores in [0, 1], paired by sample: (runs, samples) each. None with fewer than two samples."""
    shared = _shared(a, np.ones_like(a), b, np.ones_like(b))
    if shared is None:
        return None
    value, low, high, p = (float(x) for x in mean_contrast(*shared))
    return _contrast(shared, (value, low, high, p), SCORES)


Tables = tuple[Array, Array, Array, Array]
"""Totals and counts of a, then of b, each (runs, questions)."""


def _shared(total_a: Any, count_a: Any, total_b: Any, count_b: Any) -> Tables | None:
    """Return the tables at the questions that every run answered; None with fewer than two."""
    a, na, b, nb = (np.asarray(t, float) for t in (total_a, count_a, total_b, count_b))
    kept = (na.min(0) > 0) & (nb.min(0) > 0)
    return None if kept.sum() < 2 else (a[:, kept], na[:, kept], b[:, kept], nb[:, kept])


def _contrast(tables: Tables, found: tuple[float, float, float, float], interval: str) -> Contrast:
    a, na, b, nb = tables
    rates = [float((t / n).mean()) for t, n in ((a, na), (b, nb))]
    several = [len(x) > 1 for x in (a, b)]
    how, who, beyond = "", "these runs", "; says nothing about other seeds"
    if all(several):
        how, who, beyond = " and runs", "other training seeds", ""
    elif any(several):
        how, who = " and runs where there are several", "other seeds of the side with several runs"
    value, low, high, p = found
    return Contrast(
        value=value,
        low=low,
        high=high,
        questions=a.shape[1],
        cohens_h=2 * float(np.arcsin(np.sqrt(rates[0])) - np.arcsin(np.sqrt(rates[1]))),
        p=p,
        interval=interval.format(how),
        claim=CONTRAST[1].format(who, beyond),
    )


def mean_contrast(a: Array, na: Array, b: Array, nb: Array) -> tuple[Array, Array, Array, Array]:
    """(value, low, high, p) of a difference of mean scores in [0, 1]; (..., runs, questions), an answer in every cell.

    The wider of Student's t over the questions' differences and Newcombe's over answers. For benchmarks: hundreds of
    samples, one score each, which may lie between 0 and 1. Rates of answers have rate_difference instead.
    """
    questions = a.shape[-1]
    cells = a / na, b / nb
    difference = cells[0].mean(-2) - cells[1].mean(-2)
    value = difference.mean(-1)
    variance = difference.var(-1, ddof=1) / questions
    squares = variance**2 / (questions - 1)
    for cell in cells:
        runs = cell.shape[-2]
        if runs == 1:
            continue
        through_runs = cell.mean(-1).var(-1, ddof=1) / runs
        rest = cell - cell.mean(-2, keepdims=True) - cell.mean(-1, keepdims=True) + cell.mean((-2, -1), keepdims=True)
        free = (runs - 1) * (questions - 1)
        interplay = (rest**2).sum((-2, -1)) / free / (runs * questions)
        extra = np.maximum(0.0, through_runs - interplay)
        variance = variance + extra
        squares = squares + np.where(extra > 0, through_runs**2 / (runs - 1) + interplay**2 / free, 0.0)
    df = np.where(squares > 0, variance**2 / np.where(squares > 0, squares, 1.0), questions - 1.0)
    df, error = np.maximum(df, 1.0), np.sqrt(variance)
    half = stdtrit(df, 0.975) * error
    below, above = _newcombe([(t.sum((-2, -1)), n.sum((-2, -1))) for t, n in ((a, na), (b, nb))])
    toward_zero = np.where(value > 0, below, above)
    p_t = 2 * stdtr(df, -np.abs(value) / np.where(error > 0, error, 1.0))
    p_answers = 2 * stdtr(1e9, -np.abs(value) * Z / toward_zero)
    p = np.where(error > 0, np.maximum(p_t, p_answers), p_answers)
    below, above = np.maximum(half, below), np.maximum(half, above)
    return value, np.maximum(-1.0, value - below), np.minimum(1.0, value + above), p


def _newcombe(counts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Distances below and above a difference of two shares (Newcombe 1998, method 10): never zero, also at 0 - 0."""
    (p1, l1, u1), (p2, l2, u2) = ((h / n, *wilson(h, n)) for h, n in counts)
    return np.hypot(p1 - l1, u2 - p2), np.hypot(u1 - p1, p2 - l2)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (Holm 1979), in the order given: valid for the whole family under any dependence."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    out, reached = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        reached = max(reached, min(1.0, (len(p) - rank) * p[i]))
        out[i] = reached
    return out


def tabulate(
    run: NDArray[Any], question: NDArray[Any], hit: NDArray[Any], kept: NDArray[Any], runs: int, questions: int
) -> tuple[Array, Array]:
    """Rows (columns of one length) → (total, count), each (runs, questions). `hit` may be a score."""
    cell = run[kept] * questions + question[kept]
    size = runs * questions
    total = np.bincount(cell, hit[kept], size).astype(float).reshape(runs, questions)
    return total, np.bincount(cell, minlength=size).astype(float).reshape(runs, questions)
