"""Shares and ratios of clustered yes-or-no data, with 95 % intervals.

    share_figure(correct, prompts, strata)      # mean of the strata's shares
    ratio_figure(tp, tp_and_fp, prompts, "yes")
    joined(recall, specificity)                 # their mean, by MOVER
    natural(truth, answer, firing_rate=0.01, seed=0)

An interval is Wilson's on an effective number: n ÷ design effect, where the variance is linearised
over clusters and the design effect is at least 1, with Student's t on clusters − 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glossator.score.intervals import student_t, wilson

__all__ = ["Figure", "joined", "natural", "ratio_figure", "share_figure"]

CONFIDENCE = 0.95
WIDEST = 0.5
"""An interval wider than this stands for no value."""
_DRAWS = 4_000


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
    n = len(yes)
    if n == 0:
        return Figure(reason="nothing was judged")
    values = yes.astype(np.float64)
    labels = np.zeros(n, np.int64) if strata is None else np.unique(strata, return_inverse=True)[1]
    sizes = np.bincount(labels).astype(np.float64)
    weights: npt.NDArray[np.float64] = 1.0 / (len(sizes) * sizes[labels])
    effective = float(1.0 / np.sum(weights**2))
    within = np.bincount(labels, values) / sizes
    share = float(np.mean(within))
    if clusters is None:
        return Figure(share, *wilson_ends(share, effective))
    places = np.unique(clusters, return_inverse=True)[1]
    totals = np.bincount(places, weights * (values - within[labels])).astype(np.float64)
    return _on_clusters(share, _variance(totals), effective, len(totals))


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
    """The mean of two independent figures, its interval by MOVER (Zou and Donner, 2008)."""
    if first.value is None or second.value is None:
        return Figure(reason=first.reason or second.reason)
    value = (first.value + second.value) / 2
    if first.low is None or second.low is None or first.high is None or second.high is None:
        return Figure(value, reason=first.reason or second.reason)
    low = value - math.hypot(first.value - first.low, second.value - second.low) / 2
    high = value + math.hypot(first.high - first.value, second.high - second.value) / 2
    return Figure(value, low, high)


def natural(
    truth: npt.NDArray[np.bool_],
    answer: npt.NDArray[np.bool_],
    firing_rate: float,
    seed: int,
) -> tuple[Figure, Figure]:
    """Precision and F1 where a latent is active on a share `firing_rate` of the windows.

    Recall R and false positive rate F are drawn from their Jeffreys posteriors; with π the firing
    rate, precision is πR / (πR + (1 − π)F) and F1 is 2πR / (πR + (1 − π)F + π). The value is the
    median of the draws: the plug-in would say 1.0 for 0 of 20 false positives at π = 0.001.

    Args:
        truth: [n] whether the example is activating; the others are random silent windows.
        answer: [n] the judge's answer.
        firing_rate: π.
        seed: of the draws.
    """
    if not 0.0 < firing_rate < 1.0:
        none = Figure(reason=f"undefined at a firing rate of {firing_rate:g}")
        return none, none
    hits, misses = int((truth & answer).sum()), int((truth & ~answer).sum())
    alarms, passes = int((~truth & answer).sum()), int((~truth & ~answer).sum())
    generator = np.random.default_rng(seed)
    recall = generator.beta(hits + 0.5, misses + 0.5, _DRAWS)
    alarm = generator.beta(alarms + 0.5, passes + 0.5, _DRAWS)
    found = firing_rate * recall
    false = (1 - firing_rate) * alarm
    # With no alarm among n random windows the alarm rate may still be 2.5 / n (Jeffreys, 97.5 %):
    # a little more brings the lower end of the precision above one half.
    share = max(hits, 1) / max(hits + misses, 1)
    needed = math.ceil(3 * (1 - firing_rate) / (firing_rate * share))
    return (
        _of_draws(found / (found + false), firing_rate, needed),
        _of_draws(2 * found / (found + false + firing_rate), firing_rate, needed),
    )


def _of_draws(draws: npt.NDArray[np.float64], firing_rate: float, needed: int) -> Figure:
    low, value, high = np.quantile(draws, [0.5 - CONFIDENCE / 2, 0.5, 0.5 + CONFIDENCE / 2])
    if high - low > WIDEST:
        return Figure(
            reason=f"the interval is {high - low:.2f} wide: at a firing rate of "
            f"{firing_rate:.2g} some {needed:,} random negatives are needed"
        )
    return Figure(float(value), float(low), float(high))
