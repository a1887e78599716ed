"""Means over latents, and differences of them, with intervals: a bootstrap over latents.

    mean_figure(values)                    # of one figure a latent
    difference_figure(values, others)      # of two sets of latents
    mean_figure(values - others, (-1, 1))  # of the same latents twice

With fewer than ten latents a bootstrap is too narrow, and Student's t takes its place; of more than
5,000 a normal interval is the same to three digits, and costs nothing.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from glossator.score.intervals import student_t
from glossator.score.shares import Figure

__all__ = ["difference_figure", "mean_draws", "mean_figure"]

Floats = npt.NDArray[np.float64]

_DRAWS = 10_000
_FEWEST_FOR_BOOTSTRAP = 10
_MOST_FOR_BOOTSTRAP = 5_000


def mean_figure(values: Floats, bounds: tuple[float, float] = (0.0, 1.0)) -> Figure:
    """The mean over latents.

    Args:
        values: [latents].
        bounds: what the figure cannot pass.
    """
    n = len(values)
    if n == 0:
        return Figure(reason="no latent has a score")
    mean = float(values.mean())
    # Of equal values there is no spread to make an interval of: it would claim certainty.
    if n < 2 or not np.ptp(values):
        return Figure(mean, reason="no interval: one latent, or all the same")
    return _figure(mean, _deviations(values), bounds)


def difference_figure(values: Floats, others: Floats) -> Figure:
    """The mean of some latents' figure less that of others', drawn independently of them.

    Args:
        values: [latents] from 0 to 1.
        others: [others] from 0 to 1.
    """
    if not len(values) or not len(others):
        return Figure(reason="no latent has a score")
    mean = float(values.mean() - others.mean())
    sides = (values, others)
    if min(map(len, sides)) < 2 or not any(np.ptp(side) for side in sides):
        return Figure(mean, reason="no interval: one latent, or all the same")
    if all(_bootstrapped(side) for side in sides):
        drawn = _means(values, 0) - _means(others, 1)
        return _figure(mean, drawn - mean, (-1.0, 1.0))
    parts = [float(side.var(ddof=1)) / len(side) for side in sides]
    # Welch and Satterthwaite.
    freedom = [part**2 / (len(side) - 1) for part, side in zip(parts, sides, strict=True)]
    half = float(student_t(sum(parts) ** 2 / sum(freedom))) * math.sqrt(sum(parts))
    return _figure(mean, half, (-1.0, 1.0))


def mean_draws(values: Floats) -> Floats:
    """Draws of the mean over latents, for what is computed from it.

    Args:
        values: [latents], at least one.
    """
    n = len(values)
    if _bootstrapped(values) or n < 2:
        return _means(values, 0)
    scale = float(values.std(ddof=1)) / math.sqrt(n)
    drawn = np.random.default_rng(0).standard_t(n - 1, _DRAWS)
    return np.asarray(float(values.mean()) + scale * drawn, np.float64)


def _bootstrapped(values: Floats) -> bool:
    return _FEWEST_FOR_BOOTSTRAP <= len(values) <= _MOST_FOR_BOOTSTRAP


def _deviations(values: Floats) -> Floats | float:
    """Drawn means less the mean; or half of the interval's width."""
    if _bootstrapped(values):
        return _means(values, 0) - float(values.mean())
    n = len(values)
    return float(student_t(n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)


def _means(values: Floats, seed: int) -> Floats:
    """The means of latents drawn with replacement."""
    n, generator = len(values), np.random.default_rng(seed)
    block = max(1, 2_000_000 // n)
    means = [
        values[generator.integers(0, n, size=(min(block, _DRAWS - first), n))].mean(axis=1)
        for first in range(0, _DRAWS, block)
    ]
    return np.concatenate(means)


def _figure(mean: float, off: Floats | float, bounds: tuple[float, float]) -> Figure:
    if isinstance(off, float):
        low, high = mean - off, mean + off
    else:
        low, high = (mean + float(end) for end in np.quantile(off, [0.025, 0.975]))
    return Figure(mean, max(bounds[0], low), min(bounds[1], high))
