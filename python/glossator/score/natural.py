"""Precision, F1 and AUPRC at the rate at which a latent's windows are met in the corpus.

    wild = Wild(firing_rate=0.001, sizes=(98_000, 1_900))
    natural(truth, answer, wild, stratum=stratum, seed=0)          # precision and F1
    natural_auprc(p_yes, truth, wild, stratum=stratum, seed=0)
    strata = strata_of(index, explanations, examples, parameters, seed=0)

Examples are drawn half and half; windows are not met so. With π the share of windows in which the
latent is active, R the recall and F the false positive rate, precision is πR / (πR + (1 − π)F) and
F1 is 2πR / (πR + (1 − π)F + π). Silent windows fall into strata of known size W, so F is
Σ W FP/n ÷ Σ W.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glossator.index import Index, silent_strata
from glossator.records import Explanation
from glossator.score.shares import CONFIDENCE, Figure, effective_number

__all__ = ["WIDEST", "Strata", "Wild", "natural", "natural_auprc", "strata_of"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int64]

WIDEST = 0.5
"""An interval wider than this stands for no value."""
_DRAWS = 4_000
_RANK_DRAWS = 1_000
_TRIES = 400
_MOST = 1e9


@dataclass(frozen=True, slots=True)
class Strata:
    """The silent windows of one latent, and which stratum each of its negatives is a draw from."""

    sizes: tuple[int, ...]
    """Silent eligible windows of the score side in each stratum."""
    of: Mapping[str, int]
    """The stratum of each negative that is a fair draw from it, by example id."""


@dataclass(frozen=True, slots=True)
class Wild:
    """How windows are met."""

    firing_rate: float
    """Share of the windows in which the latent is active."""
    sizes: tuple[int, ...] = (1,)
    """Silent windows in each stratum; one stratum, if they are not told apart."""

    @property
    def shares(self) -> Floats:
        """Of the silent windows, the share in each stratum."""
        sizes = np.array(self.sizes, np.float64)
        return np.asarray(sizes / max(float(sizes.sum()), 1.0), np.float64)

    def refusal(self) -> str | None:
        """Why nothing can be said at this rate; None where something can."""
        if 0.0 < self.firing_rate < 1.0:
            return None
        return f"undefined at a firing rate of {self.firing_rate:g}"


@dataclass(frozen=True, slots=True)
class _Seen:
    """Counts of independent examples: right and all of the activating, and by stratum."""

    hits: float
    positives: float
    alarms: Floats
    negatives: Floats

    def draws(self, wild: Wild, n: int, seed: int) -> tuple[Floats, Floats]:
        """`n` draws of precision and of F1, the rates from their Jeffreys posteriors."""
        generator = np.random.default_rng(seed)
        recall = generator.beta(self.hits + 0.5, self.positives - self.hits + 0.5, n)
        passes = self.negatives - self.alarms
        rates = generator.beta(self.alarms + 0.5, passes + 0.5, (n, len(passes)))
        rate = wild.firing_rate
        found, false = rate * recall, (1 - rate) * (rates @ wild.shares)
        return found / (found + false), 2 * found / (found + false + rate)

    def with_negatives(self, wild: Wild, factor: float) -> _Seen:
        """As it would be with so many times the negatives, and as many errors among them."""
        # Of a stratum that was passed over some would have to be drawn, too.
        some = 0.1 * max(float(self.negatives.sum()), 10.0)
        more = factor * np.maximum(self.negatives, np.where(wild.shares > 0, some, 0.0))
        share = self.alarms / np.maximum(self.negatives, 1.0)
        return _Seen(self.hits, self.positives, share * more, more)


def natural(
    truth: Bools,
    answer: Bools,
    wild: Wild,
    *,
    seed: int,
    stratum: Codes | None = None,
    clusters: Codes | None = None,
) -> tuple[Figure, Figure]:
    """Precision and F1 where windows are met as in the corpus.

    Recall (pooled over deciles) and each stratum's false positive rate are drawn from their
    Jeffreys posteriors on n ÷ design effect. The value is the median of the draws: the plug-in
    would say precision 1.0 for 0 of 25 false positives at π = 0.001. Where the 95 % interval is
    wider than `WIDEST` there is no value, and the reason names how many negatives, in all and with
    errors as frequent as they were, would narrow it to that.

    Args:
        truth: [n] whether the example is activating; the others are fair draws from their strata.
        answer: [n] the judge's answer.
        wild: how windows are met.
        seed: of the draws.
        stratum: [n] the negatives' strata, places in `wild.sizes`; all of the first if None.
        clusters: [n] what each example belongs to; each on its own if None.
    """
    refusal = wild.refusal()
    if refusal is not None:
        return Figure(reason=refusal), Figure(reason=refusal)
    seen = _seen(truth, answer, wild, stratum, clusters)

    def figure(which: int) -> Figure:
        def width(factor: float) -> float:
            return _spread(seen.with_negatives(wild, factor).draws(wild, _TRIES, seed)[which])

        def negatives(factor: float) -> float:
            return float(seen.with_negatives(wild, factor).negatives.sum())

        return _of_draws(draws[which], wild, width, negatives)

    draws = seen.draws(wild, _DRAWS, seed)
    return figure(0), figure(1)


def natural_auprc(
    score: npt.NDArray[np.floating],
    truth: Bools,
    wild: Wild,
    *,
    seed: int,
    stratum: Codes | None = None,
) -> Figure:
    """Average precision where windows are met as in the corpus.

    An example stands for its stratum's size ÷ draws. What few draws leave open is drawn from a
    Dirichlet posterior on the weights of a stratum's examples, with a half above the highest score
    and a half below the lowest: at any one cut the rate of the stratum then has its Jeffreys
    posterior. Value and interval are quantiles of the draws, as in `natural`.

    Args:
        score: [n] what ranks, higher for activating; no NaN.
        truth: [n] whether the example is activating.
        wild: how windows are met.
        seed: of the draws.
        stratum: [n] the negatives' strata; all of the first if None.
    """
    refusal = wild.refusal()
    if refusal is not None or not truth.any():
        return Figure(reason=refusal or "undefined: no activating example")
    levels, place = np.unique(-score.astype(np.float64), return_inverse=True)
    codes = np.zeros(len(truth), np.int64) if stratum is None else stratum
    sides = [truth, *(~truth & (codes == number) for number in range(len(wild.sizes)))]
    counts = [np.bincount(place[rows], minlength=len(levels)).astype(np.float64) for rows in sides]

    def draws(n: int, factor: float = 1.0) -> Floats:
        generator = np.random.default_rng(seed)
        own = wild.firing_rate * _masses(generator, counts[0], n)
        others = np.zeros_like(own)
        for share, negatives in zip(wild.shares.tolist(), counts[1:], strict=True):
            part = _masses(generator, factor * negatives, n)
            others += (1 - wild.firing_rate) * share * part
        right = np.cumsum(own, axis=1)
        total = np.maximum(right + np.cumsum(others, axis=1), np.finfo(np.float64).tiny)
        found: Floats = np.sum(own * right / total, axis=1) / wild.firing_rate
        return found

    def width(factor: float) -> float:
        return _spread(draws(_TRIES, factor))

    n = int((~truth).sum())
    return _of_draws(draws(_RANK_DRAWS), wild, width, lambda factor: n * factor)


def _masses(generator: np.random.Generator, counts: Floats, n: int) -> Floats:
    """[n, levels + 2] shares of a stratum at each score, the highest first."""
    shapes = np.concatenate([[0.5], counts, [0.5]])
    held = shapes > 0
    drawn = np.zeros((n, len(shapes)))
    drawn[:, held] = generator.standard_gamma(shapes[held], (n, int(held.sum())))
    total: Floats = drawn / drawn.sum(axis=1, keepdims=True)
    return total


def _seen(
    truth: Bools, answer: Bools, wild: Wild, stratum: Codes | None, clusters: Codes | None
) -> _Seen:
    def counted(rows: Bools) -> tuple[float, float]:
        n = effective_number(answer[rows], None if clusters is None else clusters[rows])
        return n * float(answer[rows].mean()) if n else 0.0, n

    codes = np.zeros(len(truth), np.int64) if stratum is None else stratum
    strata = [counted(~truth & (codes == number)) for number in range(len(wild.sizes))]
    alarms, negatives = (np.array(column, np.float64) for column in zip(*strata, strict=True))
    return _Seen(*counted(truth), alarms, negatives)


def _spread(draws: Floats) -> float:
    low, high = np.quantile(draws, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return float(high - low)


def _of_draws(
    draws: Floats, wild: Wild, width: Callable[[float], float], negatives: Callable[[float], float]
) -> Figure:
    """Median and quantiles; or how many negatives would narrow them."""
    low, value, high = np.quantile(draws, [0.5 - CONFIDENCE / 2, 0.5, 0.5 + CONFIDENCE / 2])
    if high - low <= WIDEST:
        return Figure(float(value), float(low), float(high))
    text = f"the interval is {high - low:.2f} wide at a firing rate of {wild.firing_rate:.2g}"
    factor = 1.0
    # A tenth less than what is allowed: the width itself is an estimate, of few draws.
    while width(factor) > 0.9 * WIDEST:
        factor *= 1.25
        if factor > _MOST:
            return Figure(reason=f"{text}, whatever the number of negatives")
    return Figure(reason=f"{text}: some {math.ceil(negatives(factor)):,} negatives are needed")


def strata_of(
    index: Index,
    explanations: Sequence[Explanation],
    examples: pa.Table,
    parameters: Mapping[str, Any],
    *,
    seed: int = 0,
) -> dict[str, Strata]:
    """The strata of the latents' silent windows, and of the negatives that were drawn from them.

    Args:
        index: what was drawn from.
        explanations: of the latents.
        examples: columns `example_id`, `latent`, `kind`, `context` and `start` of the run's table.
        parameters: of the protocol: only where its plan draws `peak_token` evenly are there strata.
        seed: of the draw.

    Returns:
        By explanation id; empty where nothing was drawn by strata.
    """
    lists = [row for row in parameters.get("negatives", ()) if row["kind"] == "peak_token"]
    if not lists or not all(row.get("even") for row in lists) or not explanations:
        return {}
    latents = np.unique([explanation.latent for explanation in explanations])
    strata = silent_strata(index, latents, seed)
    columns = ("example_id", "latent", "kind", "context", "start")
    negatives: dict[int, tuple[list[str], list[int]]] = {}
    for row in examples.select(columns).to_pylist():
        if row["kind"] in ("random", "peak_token"):
            ids, starts = negatives.setdefault(row["latent"], ([], []))
            ids.append(row["example_id"])
            starts.append(row["context"] * index.context_length + row["start"])
    by_latent = {}
    for at, latent in enumerate(latents.tolist()):
        ids, starts = negatives.get(latent, ([], []))
        codes = strata.of(latent, np.array(starts, np.uint64)).tolist()
        sizes = tuple(int(size) for size in strata.sizes[at])
        by_latent[latent] = Strata(sizes, dict(zip(ids, codes, strict=True)))
    return {one.explanation_id: by_latent[one.latent] for one in explanations}
