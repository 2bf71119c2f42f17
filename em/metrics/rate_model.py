"""The likelihood of a rate over questions: hits by question → how likely each mean rate is.

A question's log-odds are normal around a centre with a spread. The grid is over (level, spread), where the level is
the log-odds of the MEAN rate over questions like these, not of the typical question. Reasons: docs/statistics.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import expit, log_expit, ndtr

Array = NDArray[np.floating[Any]]
Single = NDArray[np.float32]

FINE = 0.05
"""Step of the grid over a question's log-odds."""
COARSE = 0.125
"""Step of the grid over levels."""
LOG_ODDS = np.arange(-320, 321) * FINE
LEVELS = np.arange(-96, 97) * COARSE
"""Symmetric about zero, so the interval of the misses mirrors the interval of the hits."""
SPREADS = np.array([0.1, 0.4, 0.7, 1.0, 1.4, 1.8, 2.3, 2.9, 3.6, 4.5, 5.5])
SPREAD_MEAN = 1.0
"""Mean of the exponential prior on the spread of questions. Fitted spreads of real models: 0.5-2.9."""
RESOLVED = 3000.0
"""Information of one question that the grid still resolves; more answers than that are worth no more."""
SMALLEST, IMPOSSIBLE = 1e-37, 1e-20


@dataclass(frozen=True)
class Grid:
    """What the likelihood needs and the data do not change."""

    centres: Array
    """Log-odds of the typical question, by level and spread. Shape (levels, spreads)."""
    mixing: Single
    """Share of questions in each bin of LOG_ODDS. Shape (log-odds, levels x spreads)."""
    response: Array
    """Change of the level for a change of every question's log-odds by one, at most 1. Shape (levels, spreads)."""
    prior: Array
    """Log prior weight of each spread."""


@cache
def grid() -> Grid:
    """Return the grid; made once in a process, in 0.2 s."""
    centres = _centres()
    mixing = np.ascontiguousarray(normal_mass(LOG_ODDS, centres.ravel(), np.tile(SPREADS, len(LEVELS)), FINE).T)
    z, weight = _nodes()
    share = expit(centres[..., None] + SPREADS[:, None] * z)
    response = (share * (1 - share) * weight).sum(-1) / (expit(LEVELS) * expit(-LEVELS))[:, None]
    return Grid(centres, mixing, response, np.log(np.gradient(SPREADS)) - SPREADS / SPREAD_MEAN)


def _nodes() -> tuple[Array, Array]:
    z = np.linspace(-8, 8, 161)
    weight = np.exp(-z * z / 2)
    return z, weight / weight.sum()


def _centres() -> Array:
    """Solve E[expit(centre + spread z)] = expit(level) for the centre, by bisection. Shape (levels, spreads)."""
    z, weight = _nodes()
    low, high = (np.full((len(LEVELS), len(SPREADS)), end) for end in (-45.0, 45.0))
    for _ in range(50):
        middle = (low + high) / 2
        mean = (expit(middle[..., None] + SPREADS[:, None] * z) * weight).sum(-1)
        below = mean < expit(LEVELS)[:, None]
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return low


def normal_mass(at: Array, mean: Array, sd: Array, step: float) -> Single:
    """Return the normal mass of the bins around `at`; the outer two are open. Shape (len(mean), len(at))."""
    edges = np.concatenate([[-np.inf], at[:-1] + step / 2, [np.inf]])
    return np.diff(ndtr((edges - mean[:, None]) / sd[:, None]), axis=1).astype(np.float32)


def binomial(hits: Array, answers: Array, log_odds: Array = LOG_ODDS) -> Array:
    """Return the likelihood of log-odds, highest 1, for hits of answers. Shape (len(hits), log-odds)."""
    share = np.clip((hits + 0.5) / (answers + 1), 1e-12, 1 - 1e-12)
    temper = np.minimum(1, RESOLVED / np.maximum(answers * share * (1 - share), 1e-9))
    log = (hits * temper)[:, None] * log_expit(log_odds) + ((answers - hits) * temper)[:, None] * log_expit(-log_odds)
    return np.asarray(np.exp(log - log.max(1, keepdims=True)))


def log_likelihood(hits: Array, answers: Array) -> Array:
    """Return the log-likelihood of every level and spread. `hits`, `answers`: (tables, questions).

    Shape (tables, levels, spreads), up to a constant per table. Computed once per distinct pair of counts.
    """
    tables, questions = hits.shape
    pairs, place = np.unique(np.stack([hits.ravel(), answers.ravel()], 1), axis=0, return_inverse=True)
    place = place.reshape(tables, questions)
    column = np.zeros((len(pairs), grid().mixing.shape[1]), np.float32)
    asked = pairs[:, 1] > 0
    column[asked] = _columns(pairs[asked])
    out = np.zeros((tables, column.shape[1]))
    for question in range(questions):
        out += column[place[:, question]]
    return out.reshape(tables, len(LEVELS), len(SPREADS))


def _columns(pairs: Array) -> Single:
    """Return the log-likelihood of every level and spread for each (hits, answers). Shape (pairs, levels x spreads).

    Many answers leave few log-odds possible; only those are added up.
    """
    own, mixing = binomial(*pairs.T).astype(np.float32), grid().mixing
    possible = own > IMPOSSIBLE
    first, last = possible.argmax(1), len(LOG_ODDS) - possible[:, ::-1].argmax(1)
    order, out = np.argsort(first + last), np.empty((len(pairs), mixing.shape[1]), np.float32)
    for rows in np.array_split(order, len(order) // 16 + 1):  # neighbours leave the same log-odds possible
        if rows.size:
            start, end = first[rows].min(), last[rows].max()
            out[rows] = own[rows, start:end] @ mixing[start:end]
    return np.asarray(np.log(out + np.float32(SMALLEST)), np.float32)


def posterior(log: Array) -> Array:
    """Return the posterior over levels and spreads under a symmetric prior on the mean rate. Sums to 1 per table."""
    log = log + grid().prior + 0.5 * (log_expit(LEVELS) + log_expit(-LEVELS))[:, None]
    weight = np.exp(log - log.max((1, 2), keepdims=True))
    return np.asarray(weight / weight.sum((1, 2), keepdims=True))


def over_spreads(log: Array) -> Array:
    """Return the density over levels with the prior on the spread, highest 1. `log`: (tables, levels, spreads)."""
    log = log + grid().prior
    return np.asarray(np.exp(log - log.max((1, 2), keepdims=True)).sum(2))


def quantiles(density: Array, powers: tuple[float, float], at: Array) -> Array:
    """Return quantiles `at` of the level under a prior on the mean rate M. Shape (tables, len(at)).

    `density`: (tables, levels). The prior is M^(a-1) (1-M)^(b-1) for powers (a, b), a beta distribution. A spline goes
    through the log density, which is nearly a parabola however narrow it is.
    """
    a, b = powers
    log = np.log(np.maximum(density, 1e-300)) + a * log_expit(LEVELS) + b * log_expit(-LEVELS)
    spline = CubicSpline(LEVELS, log, axis=1)
    scan = np.linspace(LEVELS[0], LEVELS[-1], 4 * len(LEVELS) - 3)
    seen = spline(scan)
    inside = seen > seen.max(1, keepdims=True) - 22
    low = scan[np.maximum(inside.argmax(1) - 1, 0)]
    high = scan[np.minimum(len(scan) - inside[:, ::-1].argmax(1), len(scan) - 1)]
    points = np.linspace(low, high, 401, axis=1)
    piece = np.clip(((points - LEVELS[0]) / COARSE).astype(int), 0, len(LEVELS) - 2)
    beyond, c = points - LEVELS[piece], spline.c[:, piece, np.arange(len(log))[:, None]]
    fine = ((c[0] * beyond + c[1]) * beyond + c[2]) * beyond + c[3]
    fine = np.exp(fine - fine.max(1, keepdims=True))
    mass = np.cumsum((fine[:, 1:] + fine[:, :-1]) / 2, 1)
    mass = np.concatenate([np.zeros((len(mass), 1)), mass], 1) / mass[:, -1:]
    return np.array([np.interp(at, m, x) for m, x in zip(mass, points, strict=True)])
