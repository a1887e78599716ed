"""Intervals of precision, recall and F1 from totals over documents.

    totals = DocumentTotals(tp=..., fp=..., fn=..., tp_tp=..., ...)     # arrays over latents
    f1 = totals.f1()
    f1.value, f1.low, f1.high

Windows of one document resemble each other, so they are no independent draws: what is drawn are
documents. Each figure is a ratio of two totals over documents, its variance is linearised over
documents, and Wilson's interval is taken on the number of independent draws that would have that
variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["MIN_DOCUMENTS", "DocumentTotals", "Interval", "ratio_interval", "student_t", "wilson"]

Floats = npt.NDArray[np.float64]

MIN_DOCUMENTS = 20
"""Documents in which a latent must be active for a lower bound to be claimed."""


def student_t(degrees: npt.ArrayLike, confidence: float = 0.95) -> Floats:
    """The quantile of Student's t at a two-sided interval's end; at infinity the normal's."""
    # Half of the time that `import glossator` would take, and needed by figures alone.
    from scipy.special import stdtrit

    return np.asarray(stdtrit(degrees, 0.5 * (1.0 + confidence)), np.float64)


@dataclass(frozen=True, slots=True)
class Interval:
    """Figures with their intervals, arrays of one shape; NaN where there is none."""

    value: Floats
    """The figure; NaN where it is 0/0."""
    low: Floats
    """Lower end; NaN where too few documents allow none."""
    high: Floats
    """Upper end; NaN where there are fewer than two documents."""
    effective: Floats
    """Independent draws that would have the same variance."""


def wilson(
    k: npt.ArrayLike, n: npt.ArrayLike, *, t: npt.ArrayLike | None = None, confidence: float = 0.95
) -> tuple[Floats, Floats]:
    """Wilson's score interval of `k` hits in `n` draws.

    `n` is the number of independent draws, and need not be whole: draws that come in clusters are
    counted as the draws that they are worth, with `k` in proportion.

    Args:
        k: hits, from 0 to n.
        n: draws; the interval of none is NaN.
        t: quantile to use in place of the normal one, where the variance was estimated.
        confidence: of the two-sided interval.

    Returns:
        Lower and upper ends within [0, 1].

    Source: Wilson, Journal of the American Statistical Association 22 (1927) 209.
    """
    k, n = np.broadcast_arrays(np.asarray(k, np.float64), np.asarray(n, np.float64))
    square = np.square(student_t(np.inf, confidence) if t is None else np.asarray(t, np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(n > 0, k / n, np.nan)
        centre = p + square / (2 * n)
        half = np.sqrt(square * (p * (1 - p) / n + square / (4 * n * n)))
        low, high = (centre - half) / (1 + square / n), (centre + half) / (1 + square / n)
    # Rounding alone can cross the figure where it is 0 or 1.
    return np.clip(np.minimum(low, p), 0, 1), np.clip(np.maximum(high, p), 0, 1)


def ratio_interval(
    y: npt.ArrayLike,
    x: npt.ArrayLike,
    yy: npt.ArrayLike,
    xy: npt.ArrayLike,
    xx: npt.ArrayLike,
    documents: npt.ArrayLike,
    *,
    active: npt.ArrayLike,
    confidence: float = 0.95,
) -> Interval:
    """The interval of p = Σy / Σx, where 0 ≤ y ≤ x in every document.

    The variance linearised over the D documents with x > 0 is
    V = D/(D − 1) · Σ(y − p x)² / (Σx)². Wilson's interval is taken on p(1 − p)/V draws, never more
    than Σx, with Student's t on D − 1 degrees of freedom. Where p is 0 or 1, V is 0 and says
    nothing: every document then counts as one draw.

    Args:
        y: Σy over documents.
        x: Σx.
        yy: Σy².
        xy: Σxy.
        xx: Σx².
        documents: D.
        active: documents in which the latent is active; below `MIN_DOCUMENTS` no lower bound is
            claimed.
        confidence: of the two-sided interval.

    Returns:
        Figures and intervals, of the arguments' common shape.

    Source: Cochran, Sampling Techniques, 3rd edition (1977), section 6.3 (ratio estimate); Korn and
    Graubard, Survey Methodology 24 (1998) 193 (effective size and Student's t).
    """
    arrays = (np.asarray(a, np.float64) for a in (y, x, yy, xy, xx, documents, active))
    y, x, yy, xy, xx, documents, active = np.broadcast_arrays(*arrays)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(x > 0, y / x, np.nan)
        squares = np.maximum(yy - 2 * p * xy + p * p * xx, 0.0)
        variance = documents / (documents - 1) * squares / (x * x)
        draws = np.where(variance > 0, p * (1 - p) / variance, np.inf)
    certain = (p == 0) | (p == 1)
    draws = np.where(certain, documents, np.minimum(draws, x))
    enough = (documents >= 2) & (x > 0)
    draws = np.where(enough, draws, np.nan)
    t = student_t(np.where(enough, documents - 1, 1.0), confidence)
    low, high = wilson(p * draws, draws, t=t)
    low = np.where(active >= MIN_DOCUMENTS, low, np.nan)
    return Interval(value=p, low=low, high=high, effective=draws)


@dataclass(frozen=True, slots=True)
class DocumentTotals:
    """Outcomes of rules, summed over documents; arrays over rules, of one shape.

    `tp_tp` is the sum over documents of the square of a document's true positives, `tp_fp` that of
    the product of its true and false positives, and so on.
    """

    tp: Floats
    fp: Floats
    fn: Floats
    tp_tp: Floats
    fp_fp: Floats
    fn_fn: Floats
    tp_fp: Floats
    tp_fn: Floats
    fp_fn: Floats
    documents_predicted: Floats
    """Documents in which the rule fires."""
    documents_actual: Floats
    """Documents in which the latent is active."""
    documents_any: Floats
    """Documents in which either does."""

    def precision(self) -> Interval:
        """Tp / (tp + fp)."""
        return ratio_interval(
            self.tp,
            self.tp + self.fp,
            self.tp_tp,
            self.tp_tp + self.tp_fp,
            self.tp_tp + 2 * self.tp_fp + self.fp_fp,
            self.documents_predicted,
            active=self.documents_actual,
        )

    def recall(self) -> Interval:
        """Tp / (tp + fn)."""
        return ratio_interval(
            self.tp,
            self.tp + self.fn,
            self.tp_tp,
            self.tp_tp + self.tp_fn,
            self.tp_tp + 2 * self.tp_fn + self.fn_fn,
            self.documents_actual,
            active=self.documents_actual,
        )

    def f1(self) -> Interval:
        """2 tp / (2 tp + fp + fn)."""
        wrong = self.fp_fp + 2 * self.fp_fn + self.fn_fn
        right_and_wrong = self.tp_fp + self.tp_fn
        return ratio_interval(
            2 * self.tp,
            2 * self.tp + self.fp + self.fn,
            4 * self.tp_tp,
            4 * self.tp_tp + 2 * right_and_wrong,
            4 * self.tp_tp + 4 * right_and_wrong + wrong,
            self.documents_any,
            active=self.documents_actual,
        )
