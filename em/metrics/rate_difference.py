"""The 95 % interval of a difference of two mean rates, paired by question, and its p. The door: difference_bounds.

What is estimated is d, the log odds ratio; the level at which it acts (the anchor) turns it into a difference of rates.
A difference of zero is d = 0 at every anchor, so p < 0.05 just where the interval leaves out zero. docs/statistics.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit

from em.metrics import rate_interval, rate_model, run_spread
from em.metrics.rate_model import COARSE, FINE, LEVELS, LOG_ODDS, SPREADS, Single, binomial, log_likelihood, quantiles
from em.metrics.run_spread import RunSpread

Array = NDArray[np.floating[Any]]

STEP = 0.1
RATIOS = np.arange(-90, 91) * STEP
"""Log odds ratio d of the mean rates."""
OWN_RATIOS = np.arange(-140, 141) * STEP
"""Log odds ratio of one question."""
FINE_RATIOS = np.arange(-449.5, 450) * 0.02
"""Where d is read off. No point is zero, so that a difference is above zero or below."""
VARIATION = np.array([0.05, 0.25, 0.5, 0.75, 1.0, 1.35, 1.8, 2.4, 3.2])
"""Standard deviations of a question's own log odds ratio around d."""
VARIATION_SCALE = 1.25
"""Scale of the half-normal prior on them."""
SLOPES = np.array([-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9])
"""How much wider the questions spread on side a than on side b, as a share of the spread."""
SLOPE_SCALE = 0.2
"""Standard deviation of the normal prior on it. Without it, equal odds and not equal rates would be tested."""
POWER = 0.4
"""Prior on d: expit(d)^0.4 (1 - expit(d))^0.6 for the lower end, mirrored for the upper."""
ANCHOR_POWERS = ((0.25, 0.75), (0.75, 0.25))
"""Beta prior on the anchor's mean rate, for its lower and for its upper end."""
NODES = (np.arange(41) + 0.5) / 41
REACH = 5.0
PADDED = 2048


@dataclass(frozen=True)
class Side:
    """One side of a contrast. `hits`, `answers`: (tables, runs, questions)."""

    hits: Array
    answers: Array

    @property
    def pooled(self) -> tuple[Array, Array]:
        """Hits and answers by question. Shape (tables, questions) each."""
        return self.hits.sum(1), self.answers.sum(1)

    def information(self) -> Array:
        """Return the sum over questions of n p (1 - p), p drawn a little to the mean. Shape (tables,)."""
        hits, answers = self.pooled
        share = (hits + 2 * self._mean()[:, None]) / (answers + 2)
        return np.asarray((answers * share * (1 - share)).sum(1))

    @cached_property
    def runs(self) -> RunSpread | None:
        """How much its runs differ; None for one run."""
        return run_spread.fit(self.hits, self.answers) if self.hits.shape[1] > 1 else None

    def _mean(self) -> Array:
        return np.asarray((self.hits.sum((1, 2)) + 0.5) / (self.answers.sum((1, 2)) + 1))


def difference_bounds(a: Array, na: Array, b: Array, nb: Array) -> tuple[Array, Array, Array]:
    """Return (low, high, p) of mean rate a - mean rate b. Hits and answers: (tables, runs, questions).

    The questions are the same on both sides, the runs are not. A side with one run says nothing about its other seeds.
    A difference is no larger than both rates' intervals allow; without a hit on either side they are all there is.
    p and the interval are read off grids whose steps differ, so near .05 they may disagree about zero: then p is moved
    to .05 or just below it, as the interval says.
    """
    low, high, p = read(a, na, b, nb)
    apart = (low > 0) | (high < 0)
    return low, high, np.where(apart, np.minimum(p, np.nextafter(0.05, 0)), np.maximum(p, 0.05))


def read(a: Array, na: Array, b: Array, nb: Array) -> tuple[Array, Array, Array]:
    """Return (low, high, p) as the grids give them; p not yet moved. Arguments and shapes as in difference_bounds."""
    sides = Side(a, na), Side(b, nb)
    known = [np.maximum(side.information(), 0.5) for side in sides]
    lean = known[1] / (known[0] + known[1])
    likely = [log_likelihood(*side.pooled) for side in sides]
    response = [(rate_model.posterior(log) * rate_model.grid().response).sum((1, 2)) for log in likely]
    scale = np.sqrt(response[0] * response[1])
    density = _ratio_density(*sides, scale)
    ends = [
        density * np.exp(power * log_expit(RATIOS) + (1 - power) * log_expit(-RATIOS)) for power in (POWER, 1 - POWER)
    ]
    both = ends[0] + ends[1]
    mean = both @ RATIOS / both.sum(1)
    variance = (both @ RATIOS**2 / both.sum(1) - mean**2) * scale**2
    levels = [rate_interval.level_density(log, side.runs) for side, log in zip(sides, likely, strict=True)]
    anchors = [_anchor(levels, lean, variance, powers) for powers in ANCHOR_POWERS]
    out, tail = np.empty((len(a), 2)), np.empty((len(a), 2))
    for end, at in enumerate((0.025, 0.975)):
        for i in range(len(a)):
            ratio, weight = _fine(ends[end][i])
            below = float(np.interp(0.0, ratio, _shares(weight)))
            found = [_read_off(ratio * scale[i], weight, anchor[i], lean[i], at) for anchor in anchors]
            out[i, end] = max(found) if end else min(found)
            tail[i, end] = 1 - below if end else below
    (low_a, high_a), (low_b, high_b) = rate_interval.rate_bounds(a, na), rate_interval.rate_bounds(b, nb)
    low, high = out[:, 0], out[:, 1]
    low = np.where(low_a < high_b, np.maximum(low, np.minimum(low_a - high_b, 0)), low)
    high = np.where(high_a > low_b, np.minimum(high, np.maximum(high_a - low_b, 0)), high)
    return low, high, np.minimum(1, 2 * tail.min(1))


def _fine(density: Array) -> tuple[Array, Array]:
    """Return (ratios, weights) of a density over RATIOS, on a finer grid, where it is not nothing."""
    weight = np.exp(np.interp(FINE_RATIOS, RATIOS, np.log(density + 1e-300)))
    inside = np.flatnonzero(weight > weight.max() * 1e-7)
    inside = inside[:: max(1, len(inside) // 160)]
    return FINE_RATIOS[inside], weight[inside]


def _shares(weight: Array) -> Array:
    return np.asarray((np.cumsum(weight) - weight / 2) / weight.sum())


def _read_off(ratio: Array, weight: Array, anchor: Array, lean: float, at: float) -> float:
    """Return the quantile `at` of the difference of rates. `ratio`: on the scale of the mean rates."""
    level = anchor[:, None]
    difference = (expit(level + lean * ratio) - expit(level - (1 - lean) * ratio)).ravel()
    order = np.argsort(difference)
    return float(np.interp(at, _shares(np.tile(weight, len(anchor))[order]), difference[order]))


def _anchor(levels: list[Array], lean: Array, variance: Array, powers: tuple[float, float]) -> Array:
    """Return the level between both sides at equal steps of probability. Shape (tables, nodes).

    It leans on the side that is known better. What d already carries of a side's doubt is taken out.
    """
    parts = []
    for density, share in zip(levels, (lean, 1 - lean), strict=True):
        level = quantiles(density, powers, NODES)
        middle = level[:, len(NODES) // 2, None]
        left = 1 - share[:, None] ** 2 * variance[:, None] / np.maximum(level.var(1, keepdims=True), 1e-12)
        parts.append(middle + (level - middle) * np.sqrt(np.clip(left, 0.25, 1)))
    return np.asarray((1 - lean)[:, None] * parts[0] + lean[:, None] * parts[1])


@cache
def _mixing() -> Single:
    """Share of questions in each bin of OWN_RATIOS, by d and variation. Shape (ratios x variations, own ratios)."""
    mean, sd = np.repeat(RATIOS, len(VARIATION)), np.tile(VARIATION, len(RATIOS))
    return rate_model.normal_mass(OWN_RATIOS, mean, sd, STEP)


def _ratio_density(a: Side, b: Side, scale: Array) -> Array:
    """Return the density over RATIOS without the prior on d. Shape (tables, ratios)."""
    tables = [*a.pooled, *b.pooled]
    level, centre, spread = _typical(*tables)
    log = np.array([_pair_likelihood(tables, centre, slope) for slope in SLOPES])
    log -= log.max((0, 2), keepdims=True)
    nearest = np.clip(np.round((level - LEVELS[0]) / COARSE).astype(int), 0, len(LEVELS) - 1)
    gap = LEVELS[:, None] - rate_model.grid().centres
    prior = np.gradient(VARIATION) * np.exp(-0.5 * (VARIATION / VARIATION_SCALE) ** 2)
    runs = [found for side in (a, b) if (found := side.runs) is not None]
    out = np.zeros((len(level), len(RATIOS)))
    for slope, found in zip(SLOPES, log, strict=True):
        density = np.exp(found).reshape(len(level), len(RATIOS), len(VARIATION))
        for one in runs:
            density = run_spread.blur(density, one.weight, one.error, STEP, REACH)
        weighted = density @ prior * np.exp(-0.5 * (slope / SLOPE_SCALE) ** 2)
        for i, row in enumerate(nearest):  # a wider side has its mean further from its typical question
            wide, narrow = (np.interp(spread[i] * (1 + s / 2), SPREADS, gap[row]) for s in (slope, -slope))
            out[i] += np.interp(RATIOS - (wide - narrow) / scale[i], RATIOS, weighted[i], left=0, right=0)
    return out + 1e-30


def _typical(a: Array, na: Array, b: Array, nb: Array) -> tuple[Array, Array, Array]:
    """Return level, centre and spread of both sides' questions together, as posterior means. Shape (tables,) each."""
    weight = rate_model.posterior(log_likelihood(a + b, na + nb))
    of = [LEVELS[:, None], rate_model.grid().centres, SPREADS]
    level, centre, spread = ((weight * values).sum((1, 2)) for values in of)
    return level, centre, spread


def _pair_likelihood(tables: list[Array], centre: Array, slope: float) -> Array:
    """Return the log-likelihood over (d, variation), summed over questions. Shape (tables, ratios x variations).

    With t the question's place around the centre, a stands at centre + d/2 + (1 + slope/2) t, b at
    centre - d/2 + (1 - slope/2) t. t is integrated with a flat prior: a correlation of both likelihoods.
    """
    shape = tables[0].shape
    cells = np.stack([*(t.ravel() for t in tables), np.repeat(centre, shape[1])], 1)
    distinct, place = np.unique(cells, axis=0, return_inverse=True)
    a, na, b, nb, at = distinct.T
    spectra = [
        np.fft.rfft(_around(hits, answers, at, 1 + half), PADDED)
        for hits, answers, half in ((a, na, slope / 2), (b, nb, -slope / 2))
    ]
    together = np.fft.irfft(spectra[0] * np.conj(spectra[1]), PADDED)
    lag = np.clip(OWN_RATIOS * 4 / (4 - slope**2), -15.9, 15.9) / FINE
    left = np.floor(lag).astype(int)
    own = np.maximum(together[:, left] * (1 - lag + left) + together[:, left + 1] * (lag - left), 1e-30)
    own[(a + b == 0) | (a + b == na + nb)] = 1.0  # no hit, or nothing but hits: a ratio of odds is not in there
    column = np.log(own.astype(np.float32) @ _mixing().T + rate_model.SMALLEST)
    place, out = place.reshape(shape), np.zeros((shape[0], column.shape[1]))
    for question in range(shape[1]):
        out += column[place[:, question]]
    return out


def _around(hits: Array, answers: Array, centre: Array, stretch: float) -> Array:
    """Return each cell's likelihood at centre + stretch x LOG_ODDS. Shape (cells, log-odds)."""
    return np.concatenate(
        [binomial(hits[i : i + 1], answers[i : i + 1], c + stretch * LOG_ODDS) for i, c in enumerate(centre)]
    )
