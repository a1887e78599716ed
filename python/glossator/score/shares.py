"""Shares and ratios of clustered yes-or-no data, with 95 % intervals.

    share_figure(correct, prompts, strata)      # mean of the strata's shares
    share_intervals(many_samples, prompts)      # of many samples of one design at once
    ratio_figure(tp, tp_and_fp, prompts, "yes")
    joined(recall, specificity)                 # their mean, by MOVER

An interval is Wilson's on an effective number: n ÷ design effect, where the variance is linearised
over clusters and the design effect is at least 1, with Student's t on clusters − 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glossator.score.intervals import student_t, wilson

__all__ = [
    "Figure",
    "effective_number",
    "joined",
    "mover",
    "ratio_figure",
    "share_figure",
    "share_intervals",
]

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its interval, or the reason why there is none."""

    value: float | None = None
    """The figure."""
    low: float | None = None
    """Lower end of its 95 % interval."""
    high: float | None = None
    """Upper end."""
    reason: str | None = None
    """Why there is no value or no interval."""


def wilson_ends(share: float, n: float, quantile: float | None = None) -> tuple[float, float]:
    low, high = wilson(share * n, n, t=quantile)
    return float(low), float(high)


def _on_clusters(share: float, variance: float, n: float, clusters: int) -> Figure:
    """Wilson's interval on `n` ÷ design effect."""
    if clusters < 2:
        return Figure(share, reason="no interval: all examples stood in one prompt")
    binomial = share * (1 - share) / n
    effect = max(1.0, variance / binomial) if binomial > 0 else 1.0
    quantile = float(student_t(clusters - 1, CONFIDENCE))
    return Figure(share, *wilson_ends(share, n / effect, quantile))


def _variance(totals: npt.NDArray[np.float64]) -> float:
    """Variance of a sum of independent totals, one a cluster, that add up to 0."""
    count = len(totals)
    return float(count / (count - 1) * np.sum(totals**2)) if count > 1 else 0.0


def share_figure(
    yes: npt.NDArray[np.bool_],
    clusters: npt.NDArray[np.int64] | None = None,
    strata: npt.NDArray[np.int64] | None = None,
) -> Figure:
    """A share, or the mean of several strata's shares.

    Args:
        yes: [n], n at least 1.
        clusters: [n] what each belongs to; each on its own, with the normal quantile, if None.
        strata: [n]; each counts the same, whatever its size. One if None.
    """
    if len(yes) == 0:
        return Figure(reason="nothing was judged")
    codes = None if clusters is None else np.unique(clusters, return_inverse=True)[1]
    value, low, high = (float(found[0]) for found in share_intervals(yes[None], codes, strata))
    if math.isnan(low):
        return Figure(value, reason="no interval: all examples stood in one prompt")
    return Figure(value, low, high)


def share_intervals(
    yes: npt.NDArray[np.bool_],
    clusters: npt.NDArray[np.int64] | None = None,
    strata: npt.NDArray[np.int64] | None = None,
) -> tuple[Floats, Floats, Floats]:
    """The shares of many samples of one design, with Wilson's intervals on n ÷ design effect.

    With w the weight of an example (1 ÷ strata ÷ the stratum's size), the variance linearised over
    C clusters is C / (C − 1) · Σ (Σ w (y − its stratum's share))², the inner sum over a cluster.
    The design effect is that ÷ the variance of 1 / Σ w² independent draws, and at least 1.

    Args:
        yes: [samples, n], n at least 1.
        clusters: [n], or [samples, n], codes from 0 on; each on its own, with the normal quantile,
            if None.
        strata: [n]; one if None.

    Returns:
        Value, lower and upper end, each [samples]; the ends are NaN where all is one cluster.

    Source: Korn and Graubard, Survey Methodology 24 (1998) 193.
    """
    samples, n = yes.shape
    labels = np.zeros(n, np.int64) if strata is None else np.unique(strata, return_inverse=True)[1]
    sizes = np.bincount(labels).astype(np.float64)
    weights: Floats = 1.0 / (len(sizes) * sizes[labels])
    effective = float(1.0 / np.sum(weights**2))
    member = np.zeros((n, len(sizes)))
    member[np.arange(n), labels] = 1.0
    within = (yes @ member) / sizes
    share: Floats = within.mean(axis=1)
    if clusters is None:
        return share, *wilson(share * effective, effective)
    off = weights * (yes - within[:, labels])
    count = int(clusters.max()) + 1
    places = (clusters + count * np.arange(samples)[:, None]).reshape(-1)
    totals = np.bincount(places, off.reshape(-1), samples * count).reshape(samples, count)
    held = np.bincount(places, minlength=samples * count).reshape(samples, count) > 0
    size = held.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.where(size > 1, size / (size - 1), np.nan) * np.sum(totals**2, axis=1)
        binomial = share * (1 - share) / effective
        effect = np.where(binomial > 0, np.maximum(variance / binomial, 1.0), 1.0 + 0 * variance)
        quantile = student_t(np.maximum(size - 1, 1), CONFIDENCE)
    return share, *wilson(share * effective / effect, effective / effect, t=quantile)


def effective_number(
    yes: npt.NDArray[np.bool_], clusters: npt.NDArray[np.int64] | None = None
) -> float:
    """N ÷ design effect: how many independent examples say as much about a share."""
    n = len(yes)
    if clusters is None or n == 0:
        return float(n)
    places = np.unique(clusters, return_inverse=True)[1]
    share = float(yes.mean())
    binomial = share * (1 - share) * n
    if not binomial:
        return float(n)
    count = int(places.max()) + 1
    if count < 2:
        return 1.0
    totals = np.bincount(places, yes - share)
    return n / max(1.0, count / (count - 1) * float(totals @ totals) / binomial)


def ratio_figure(
    part: npt.NDArray[np.generic],
    whole: npt.NDArray[np.generic],
    clusters: npt.NDArray[np.int64],
    unit: str,
) -> Figure:
    """A ratio of two totals, its variance linearised over clusters.

    Args:
        part: [n] what each adds to the numerator.
        whole: [n] what each adds to the denominator, at least as much.
        clusters: [n] what each belongs to.
        unit: what the denominator counts, for the reason where it is 0.
    """
    places = np.unique(clusters, return_inverse=True)[1]
    above = np.bincount(places, part.astype(np.float64))
    below = np.bincount(places, whole.astype(np.float64))
    if below.sum() == 0:
        return Figure(reason=f"undefined: no {unit} among the answers")
    ratio = float(above.sum() / below.sum())
    held = below > 0
    totals = (above[held] - ratio * below[held]) / below.sum()
    # Each verdict counts once, though it may add 2 to numerator and denominator (F1).
    trials = float(np.count_nonzero(whole))
    return _on_clusters(ratio, _variance(totals), trials, int(held.sum()))


def joined(first: Figure, second: Figure) -> Figure:
    """The mean of two independent figures; see `mover`."""
    if first.value is None or second.value is None:
        return Figure(reason=first.reason or second.reason)
    value = (first.value + second.value) / 2
    if first.low is None or second.low is None or first.high is None or second.high is None:
        return Figure(value, reason=first.reason or second.reason)
    ends = mover(first.value, first.low, first.high, second.value, second.low, second.high)
    return Figure(value, float(ends[0]), float(ends[1]))


def mover(
    first: npt.ArrayLike,
    first_low: npt.ArrayLike,
    first_high: npt.ArrayLike,
    second: npt.ArrayLike,
    second_low: npt.ArrayLike,
    second_high: npt.ArrayLike,
) -> tuple[Floats, Floats]:
    """The interval of the mean of two independent figures, from the interval of each.

    The lower end is the mean less √((first − its low)² + (second − its low)²) / 2; the upper
    likewise.

    Source: Newcombe, Statistics in Medicine 17 (1998) 873; Zou and Donner, Statistics in Medicine
    27 (2008) 1693.
    """
    arrays = (first, first_low, first_high, second, second_low, second_high)
    one, low, high, two, other_low, other_high = (np.asarray(a, np.float64) for a in arrays)
    value = (one + two) / 2
    return (
        np.asarray(value - np.hypot(one - low, two - other_low) / 2),
        np.asarray(value + np.hypot(high - one, other_high - two) / 2),
    )
