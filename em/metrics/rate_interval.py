"""The default 95 % interval of a rate over questions and runs. The door: rate_bounds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from em.metrics import run_spread
from em.metrics.rate_model import COARSE, log_likelihood, over_spreads, quantiles
from em.metrics.run_spread import RunSpread

Array = NDArray[np.floating[Any]]

POWERS = (0.75, 0.25)
"""Beta prior on the mean rate for the upper end, mirrored for the lower end. Jeffreys' prior has (0.5, 0.5); (1, 0) and
(0, 1) give the ends of Clopper and Pearson. This is halfway: no hit must not read as a rate of nothing."""
TAIL = 0.025
"""Posterior mass beyond each end."""
STEP = 1.25
"""Ratio of the caps on answers that are tried, where questions have different numbers of answers."""
FILLED = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Numbers of questions that may have got answers without a hit that were not drawn, those with the fewest hits first;
all of them are tried, too."""
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
    """Return the upper end. More answers without a hit do not raise it, beyond the steps between caps.

    They would in the plain model: a question without a hit in 1,000 answers, beside one with hits in 100, says that
    questions differ, so that the questions not asked may be far worse. Therefore an end assumes the worst about the
    answers that were not drawn: of questions a step below a cap, some may have got answers without a hit up to it.
    Answers above the cap are not counted, and the cap that gives the lowest end is used. Where all questions have as
    many answers this is the plain model. The spread of runs keeps all answers.
    """
    runs = run_spread.fit(hits, answers) if hits.shape[1] > 1 else None
    hits, answers = hits.sum(1), answers.sum(1)
    case, cap = _caps(answers)
    own, asked = hits[case], answers[case] > 0
    least = np.maximum(own, np.minimum(answers[case], cap[:, None]))
    most = np.where(asked & (STEP * least < cap[:, None]), cap[:, None], least)
    place = np.where(most > least, own, np.inf).argsort(1, kind="stable").argsort(1)  # by the rate at the cap
    sizes = [size for size in FILLED if size < own.shape[1]] + [own.shape[1]]
    drawn = [least, *(np.where(place < size, most, least) for size in sizes)]
    new = [np.ones(len(case), bool), *((more != fewer).any(1) for fewer, more in pairwise(drawn))]
    at = np.concatenate([np.flatnonzero(found) for found in new])
    order = np.argsort(case[at], kind="stable")  # the counts of one table are in one batch: many are the same
    at, counts = at[order], np.concatenate([more[found] for more, found in zip(drawn, new, strict=True)])[order]
    np.maximum.at(worst := np.zeros(len(case)), at, _end(own[at], counts, runs.rows(case[at]) if runs else None))
    np.minimum.at(ends := np.ones(len(hits)), case, worst)
    return ends


def _caps(answers: Array) -> tuple[NDArray[np.intp], Array]:
    """Return (table, cap): the least and the most answers to a question of each table, and steps between them."""
    most, least = answers.max(1), np.where(answers > 0, answers, np.inf).min(1)
    steps = STEP ** np.arange(int(np.log(most.max()) / np.log(STEP)) + 1)
    caps = np.column_stack([np.tile(steps, (len(answers), 1)), least, most])
    table, place = np.nonzero((caps >= least[:, None]) & (caps <= most[:, None]))
    twice = (place == len(steps)) & (least == most)[table]
    return table[~twice], caps[table, place][~twice]


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
