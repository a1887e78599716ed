"""Figures of scores that rank: AUROC and average precision, with intervals over clusters.

    auroc_figure(p_yes, truth, prompts)               # Figure(value, low, high)
    average_precision(p_yes, truth, weights)          # a number
    average_precision_figure(p_yes, truth, prompts)   # Figure, at the share of examples as drawn

Both are linearised: each example has an influence (a Mann-Whitney placement for the AUROC), the
influences of a cluster are added, and the variance of the sums gives the number of independent
draws that Wilson's interval is taken on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from glossator.score.intervals import student_t
from glossator.score.shares import CONFIDENCE, Figure, wilson_ends

__all__ = ["auroc_figure", "average_precision", "average_precision_figure"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int64]


def auroc_figure(
    score: npt.NDArray[np.floating], truth: Bools, clusters: Codes | None = None
) -> Figure:
    """Probability that an activating example scores above a silent one; ties count a half.

    The variance is that of the placements, summed over clusters; it is never taken as less than
    that of as many independent examples in the exponential model. Student's t is on clusters − 1.

    Args:
        score: [n] what ranks, higher for activating; no NaN.
        truth: [n] whether the example is activating.
        clusters: [n] what each example belongs to; each on its own if None.

    Returns:
        The figure; without a value where one of the two classes is empty.

    Source: Obuchowski, Biometrics 53 (1997) 567 (placements over clusters); Newcombe, Statistics in
    Medicine 25 (2006) 559, method 5 (Wilson-like interval and the model's variance).
    """
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return Figure(reason=f"undefined: no {'silent' if positive else 'activating'} example")
    ordered = {side: np.sort(score[truth == side]) for side in (False, True)}
    placement = np.empty(len(score), np.float64)
    for side in (True, False):
        others = ordered[not side]
        own = score[truth == side]
        below = np.searchsorted(others, own) + np.searchsorted(others, own, side="right")
        placement[truth == side] = below / (2 * len(others))
    placement[~truth] = 1 - placement[~truth]
    value = float(placement[truth].mean())
    influence = (placement - value) / np.where(truth, positive, negative)
    mean = (positive + negative) / 2 - 1
    model = (1 + mean * (1 - value) / (2 - value) + mean * value / (1 + value)) / (
        positive * negative
    )
    return _figure(value, influence, truth, clusters, most=1 / model)


def average_precision(
    score: npt.NDArray[np.floating], truth: Bools, weights: Floats | None = None
) -> float:
    """Mean over the activating examples of the precision among all that score as high.

    Args:
        score: [n] what ranks.
        truth: [n] whether the example is activating; some are.
        weights: [n] what each example stands for, its stratum's size ÷ draws; 1 if None.
    """
    return _average_precision(score, truth, _weights(score, weights))[0]


def average_precision_figure(
    score: npt.NDArray[np.floating],
    truth: Bools,
    clusters: Codes | None = None,
    weights: Floats | None = None,
) -> Figure:
    """Average precision with an interval; see `average_precision`.

    Wilson's interval is taken on no more draws than the rarer class has examples. At a natural
    firing rate `glossator.score.natural.natural_auprc` says what few negatives leave open; this
    does not.

    Args:
        score: [n] what ranks, higher for activating; no NaN.
        truth: [n] whether the example is activating.
        clusters: [n] what each example belongs to; each on its own if None.
        weights: [n] what each example stands for; 1 if None.
    """
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return Figure(reason=f"undefined: no {'silent' if positive else 'activating'} example")
    value, influence = _average_precision(score, truth, _weights(score, weights))
    for side in (True, False):  # as many of each are drawn as was planned
        influence[truth == side] -= influence[truth == side].mean()
    return _figure(value, influence, truth, clusters, most=min(positive, negative))


def _weights(score: npt.NDArray[np.floating], weights: Floats | None) -> Floats:
    return np.ones(len(score)) if weights is None else np.asarray(weights, np.float64)


def _average_precision(
    score: npt.NDArray[np.floating], truth: Bools, weights: Floats
) -> tuple[float, Floats]:
    """The figure, and each example's influence: its weight × the derivative by that weight."""
    levels, place = np.unique(-score, return_inverse=True)
    own = np.bincount(place[truth], weights[truth], len(levels)).astype(np.float64)
    right = np.cumsum(own)
    wrong = np.cumsum(np.bincount(place[~truth], weights[~truth], len(levels)))
    both = np.maximum(right + wrong, np.finfo(np.float64).tiny)
    precision = right / both
    value = float(np.sum(own * precision) / right[-1])
    # An example of a level adds to this and every level below it.
    gain = np.cumsum((own * wrong / both**2)[::-1])[::-1]
    loss = np.cumsum((own * right / both**2)[::-1])[::-1]
    slope = np.where(truth, precision[place] + gain[place] - value, -loss[place])
    return value, weights * slope / right[-1]


def _figure(
    value: float, influence: Floats, truth: Bools, clusters: Codes | None, most: float
) -> Figure:
    """Wilson's interval on value (1 − value) ÷ variance draws, `most` of them at most.

    Each class's influences add up to 0. Their variances carry each its own C / (C − 1), and what a
    cluster holds of both classes counts together.
    """
    places = (
        np.arange(len(truth)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    )
    count = int(places.max()) + 1
    totals = np.zeros(count)
    for side in (True, False):
        rows = truth == side
        held = len(np.unique(places[rows]))
        if held < 2:
            return Figure(value, reason="no interval: all examples of a class stood in one prompt")
        part = np.bincount(places[rows], influence[rows], count)
        totals += np.sqrt(held / (held - 1)) * part
    variance = float(np.sum(totals**2))
    spread = value * (1 - value)
    draws = most if spread <= 0 or variance <= 0 else min(most, spread / variance)
    quantile = float(student_t(count - 1, CONFIDENCE))
    return Figure(value, *wilson_ends(value, draws, quantile))
