"""How well predicted activations agree with the true ones, over all tokens.

figures = simulation_figures(predicted, truth, documents, seed=0)
figures["correlation"].value, figures["correlation"].low
figures["explained_variance"]
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from glossator.score.intervals import student_t
from glossator.score.shares import Figure

__all__ = ["simulation_figures"]

Floats = npt.NDArray[np.float64]

_DRAWS = 2_000


def simulation_figures(
    predicted: Sequence[npt.NDArray[np.float64]],
    truth: Sequence[npt.NDArray[np.float64]],
    clusters: npt.NDArray[np.int64],
    *,
    seed: int = 0,
) -> dict[str, Figure]:
    """How well predicted activations agree with the true ones, over all tokens of all windows.

    `correlation` is Pearson's. `explained_variance` is the share of the true activations' variance
    that the best line in the predicted ones explains, for the judge cannot know the latent's scale:
    the square of the correlation, and 0 where the line would fall.

    The interval is Student's on Fisher's z, with the standard error of a bootstrap over clusters,
    or that of independent tokens where it is larger. On planted truth, twenty windows, it covers
    .89 (correlation .14), .95 (.42), .93 (.68) and all but none (0); the bootstrap's quantiles
    cover .89 to .93. Where one window's activations dwarf all others', no interval tells.

    Args:
        predicted: for each window [W] predicted activations; NaN: token left out.
        truth: for each window [W] the latent's activations.
        clusters: [n] the document of each window.
        seed: of the bootstrap.
    """
    sums = _sums(predicted, truth, clusters)
    found = _correlation(sums.sum(axis=0)) if len(sums) else math.nan
    if math.isnan(found):
        reason = "undefined: the predicted or the true activations are all the same"
        return dict.fromkeys(("correlation", "explained_variance"), Figure(reason=reason))
    correlation = _with_interval(float(found), sums, seed)
    ends = (correlation.value, correlation.low, correlation.high)
    value, low, high = (None if end is None else max(end, 0.0) ** 2 for end in ends)
    return {
        "correlation": correlation,
        "explained_variance": Figure(value, low, high, correlation.reason),
    }


def _with_interval(found: float, sums: Floats, seed: int) -> Figure:
    count = len(sums)
    if count < 2:
        return Figure(found, reason="no interval: all windows are of one document")
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), _DRAWS)
    draws = _correlation(weights @ sums)
    draws = draws[np.isfinite(draws)]
    if len(draws) < _DRAWS / 2:
        return Figure(found, reason="no interval: too few documents in which the latent is active")
    # Windows are worth no more than their tokens would be if they were independent.
    alone = 1 / math.sqrt(max(float(sums[:, 0].sum()) - 3, 1.0))
    error = max(float(np.std(_fisher(draws))), alone) * float(student_t(count - 1))
    centre = float(_fisher(np.array(found)))
    return Figure(found, math.tanh(centre - error), math.tanh(centre + error))


def _fisher(correlation: Floats) -> Floats:
    """Fisher's z; a perfect correlation has a large one, not an infinite one."""
    bound = 1 - 1e-6
    return np.arctanh(np.clip(correlation, -bound, bound))


def _sums(
    predicted: Sequence[Floats], truth: Sequence[Floats], clusters: npt.NDArray[np.int64]
) -> Floats:
    """[clusters, 6] n, Σx, Σy, Σx², Σy² and Σxy of each cluster's tokens."""
    names, places = np.unique(clusters, return_inverse=True)
    sums = np.zeros((len(names), 6))
    for place, x, y in zip(places.tolist(), predicted, truth, strict=True):
        there = np.isfinite(x)
        x, y = x[there], np.asarray(y, np.float64)[there]
        sums[place] += (len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y)
    return sums


def _correlation(sums: Floats) -> Floats:
    """Pearson's correlation from sums [..., 6]; NaN where either side is constant."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    # Rounding leaves a little of the variance of a constant.
    spread_x = np.where(n * xx - x * x > 1e-9 * n * xx, n * xx - x * x, np.nan)
    spread_y = np.where(n * yy - y * y > 1e-9 * n * yy, n * yy - y * y, np.nan)
    found: Floats = np.clip((n * xy - x * y) / np.sqrt(spread_x * spread_y), -1.0, 1.0)
    return found
