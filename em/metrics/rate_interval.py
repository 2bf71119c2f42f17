"""The default 95 % interval of a rate over questions and runs. The door: rate_bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from em.metrics import run_spread
from em.metrics.rate_model import COARSE, log_likelihood, over_spreads, quantiles
from em.metrics.run_spread import RunSpread

Array = NDArray[np.floating[Any]]

POWERS = (0.55, 0.5)
"""Beta prior on the mean rate for the upper end; mirrored for the lower end."""
TAIL = 0.011
"""Posterior mass beyond each end. Less than 0.025, because the floors below shorten the interval."""
FLOORS = np.geomspace(3e-4, 0.6, 16)
"""Rates below which a question's answers without a hit are no longer counted, tried in turn."""
NEAR = (FLOORS[1] / FLOORS[0]) ** np.array([-0.75, -0.5, -0.25, 0.25, 0.5, 0.75])
"""Factors of the best floor, tried next."""
REACH = 3.0
"""How far the doubt about other runs moves a level, log-odds."""


def rate_bounds(hits: Array, answers: Array) -> tuple[Array, Array]:
    """Return the 95 % interval of the mean rate over questions like these and runs like these.

    `hits`, `answers`: (tables, runs, questions), an answer somewhere in every table. One run: nothing is said about
    other runs. 0 is the lower end without a hit, 1 the upper end without a miss.
    """
    total, count = hits.sum((1, 2)), answers.sum((1, 2))
    low, high = 1 - _upper_end(answers - hits, answers), _upper_end(hits, answers)
    return np.where(total <= 0, 0.0, low), np.where(total >= count, 1.0, high)


def _upper_end(hits: Array, answers: Array) -> Array:
    """Return the upper end. More answers without a hit do not raise it, beyond the steps between floors.

    They would in the plain model: a question without a hit in 1,000 answers says that questions differ, so that the
    questions not asked may be far worse. So a question's answers are counted only down to a floor of its rate, and the
    floor that gives the lowest upper end is used. The spread of runs keeps all answers: with floors it covered 90 %.
    """
    runs = run_spread.fit(hits, answers) if hits.shape[1] > 1 else None
    hits, answers = hits.sum(1), answers.sum(1)
    table, floor, best = _try(hits, answers, np.tile(FLOORS, (len(hits), 1)), runs)
    chosen = np.ones(len(hits))
    order = np.argsort(-best)
    chosen[table[order]] = floor[order]
    again, _, closer = _try(hits, answers, np.maximum(chosen, 1e-9)[:, None] * NEAR, runs)
    np.minimum.at(ends := np.ones(len(hits)), np.concatenate([table, again]), np.concatenate([best, closer]))
    return ends


def _try(hits: Array, answers: Array, floors: Array, runs: RunSpread | None) -> tuple[NDArray[np.intp], Array, Array]:
    """Return (table, floor, upper end) of every floor that changes its table, and of all answers (floor 0).

    `hits`, `answers`: (tables, questions); `floors`: (tables, floors).
    """
    highest = (hits / np.maximum(answers, 1)).max(1)
    tables, counted, used = [np.arange(len(hits))], [answers], [np.zeros(len(hits))]
    for floor in floors.T:
        fewer = _down_to(floor[:, None], hits, answers)
        tried = np.flatnonzero((fewer < answers).any(1) & (1.5 * highest + 0.01 > floor))
        tables.append(tried)
        counted.append(fewer[tried])
        used.append(floor[tried])
    table = np.concatenate(tables)
    ends = _end(hits[table], np.concatenate(counted), runs.rows(table) if runs else None)
    return table, np.concatenate(used), ends


def _down_to(floor: Array | float, hits: Array, answers: Array) -> Array:
    """Return as many of the answers as keep the rate, with one hit more, at the floor."""
    return np.asarray(np.minimum(answers, np.maximum(hits, (hits + 1) / floor)))


def level_density(log: Array, runs: RunSpread | None) -> Array:
    """Return the density over levels, widened by what other runs may be. `log`: (tables, levels, spreads).

    Shape (tables, levels), highest about 1. `runs`: None for one run.
    """
    density = over_spreads(log)
    if runs is None:
        return density
    return run_spread.blur(density, runs.weight, runs.error * runs.scale[:, None], COARSE, REACH)


def _end(hits: Array, answers: Array, runs: RunSpread | None, batch: int = 500) -> Array:
    """Return the upper quantile of the mean rate. `hits`, `answers`: (tables, questions)."""
    out = np.empty(len(hits))
    for first in range(0, len(hits), batch):
        part = slice(first, first + batch)
        density = level_density(log_likelihood(hits[part], answers[part]), runs.rows(part) if runs else None)
        out[part] = expit(quantiles(density, POWERS, np.array([1 - TAIL]))[:, 0])
    return out
