"""How much training runs differ, from hits by run and question; and what that adds to the doubt about a mean rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtr

Array = NDArray[np.floating[Any]]

SPREADS = np.array([0.03, 0.15, 0.3, 0.45, 0.6, 0.8, 1.05, 1.4, 1.9])
"""Standard deviations of a run's log-odds around the mean of all runs."""
PRIOR = 0.8
"""Scale of the half-normal prior on them. The paper's ten GPT-4o models: 0.5-0.6."""

NOISE = 1e-14
"""What the Fourier transform leaves where a density is zero, as a share of its maximum."""


@dataclass(frozen=True)
class RunSpread:
    """The doubt about the mean of all runs there could be: a mixture of normals on the scale of log-odds."""

    weight: Array
    """Posterior weight of each of SPREADS. Shape (tables, spreads)."""
    error: Array
    """Standard error of the mean of the runs made, if runs spread so. Shape (tables, spreads)."""
    scale: Array
    """Change of the level for a change of every question's log-odds by one. Shape (tables,)."""

    def variance(self) -> Array:
        """Return the variance that the runs add to the level. Shape (tables,)."""
        return np.asarray((self.weight * self.error**2).sum(1) * self.scale**2)

    def rows(self, on: NDArray[np.intp] | slice) -> RunSpread:
        """Return the spreads of some tables."""
        return RunSpread(self.weight[on], self.error[on], self.scale[on])


def fit(hits: Array, answers: Array) -> RunSpread:
    """Fit the spread of runs. `hits`, `answers`: (tables, runs, questions), two runs or more.

    A run multiplies the expected hits of every question (gamma-Poisson on the run totals, the mean integrated out).
    Run x question interaction is estimated from the residuals, towards a variance of 0.1.
    """
    runs, questions = hits.shape[1:]
    by_question, asked, by_run = hits.sum(1), answers.sum(1), hits.sum(2)
    mean = (by_question.sum(1) + 0.5) / (asked.sum(1) + 1)
    share = (by_question + 2 * mean[:, None]) / (asked + 2)
    expected, variance = answers * share[:, None], answers * (share * (1 - share))[:, None]
    calibrate = (by_run.sum(1) / np.maximum(expected.sum((1, 2)), 1e-9))[:, None]
    size = np.maximum(variance.sum(2) * calibrate, 1e-3)
    seen = np.maximum(size + by_run - expected.sum(2) * calibrate, 0)
    fitted = expected * np.maximum(seen / size, 1e-3)[:, :, None]
    fitted = np.minimum(fitted * (by_question / np.maximum(fitted.sum(1), 1e-9))[:, None], answers)
    own, free = fitted * (1 - fitted / np.maximum(answers, 1)), (runs - 1) * (questions - 1) / (runs * questions)
    left = ((hits - fitted) ** 2 - free * own).sum((1, 2)) + 6
    interaction = np.clip(left / (free * (own**2).sum((1, 2)) + 60), 0, 2)
    of_run = (variance**2).sum(2) / np.maximum(variance.sum(2), 1e-9) ** 2
    relative = np.maximum(np.expm1(SPREADS**2) + (interaction[:, None] * of_run)[:, :, None], 1e-4)
    weight = _weights(seen[:, :, None], size[:, :, None], relative)
    error = SPREADS / np.sqrt(size.sum(1) ** 2 / (size**2).sum(1))[:, None]
    scale = np.clip(variance.sum((1, 2)) / (asked.sum(1) * mean * (1 - mean)), 0.2, 1)
    return RunSpread(weight, error, scale)


def _weights(seen: Array, size: Array, relative: Array) -> Array:
    """Return posterior weights over SPREADS: gamma-Poisson counts `seen` of expected `size`, one row per run."""
    shape = 1 / relative
    log = gammaln(seen + shape) - gammaln(shape) + shape * np.log(shape / (shape + size))
    log = (log + seen * np.log(size / (shape + size))).sum(1)
    log += -0.5 * np.log((1 / (1 / size + relative)).sum(1))
    log += -0.5 * (SPREADS / PRIOR) ** 2 + np.log(np.gradient(SPREADS))
    weight = np.exp(log - log.max(1, keepdims=True))
    return np.asarray(weight / weight.sum(1, keepdims=True))


def blur(density: Array, weight: Array, error: Array, step: float, reach: float) -> Array:
    """Convolve a density (tables, points, ...) along its points with the mixture of normals (weight, error)."""
    half = int(reach / step)
    offset, sd = np.arange(-half, half + 1) * step, error[:, :, None]
    kernel = ((ndtr((offset + step / 2) / sd) - ndtr((offset - step / 2) / sd)) * weight[:, :, None]).sum(1)
    kernel /= kernel.sum(1, keepdims=True)
    kernel = kernel.reshape(*kernel.shape, *[1] * (density.ndim - 2))
    padded = np.concatenate([np.repeat(density[:, :1], half, 1), density, np.repeat(density[:, -1:], half, 1)], axis=1)
    size = 1 << (padded.shape[1] + 2 * half).bit_length()
    out = np.fft.irfft(np.fft.rfft(padded, size, axis=1) * np.fft.rfft(kernel, size, axis=1), size, axis=1)
    out = out[:, 2 * half : 2 * half + density.shape[1]]
    return np.asarray(np.maximum(out, NOISE * out.max(1, keepdims=True)))
