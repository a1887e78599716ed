"""Judges whose errors are planted: by decile, and correlated within documents and prompts.

    sample = DESIGNS["post"].sample(rng, 20_000, recall, specificity)
    held = covered(sample, intervals(sample))

An answer is wrong where a normal number falls below a quantile; part of its variance belongs to the
prompt and part to the document, so that errors come together in both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import norm

from glossator.score.shares import mover, share_intervals

PROMPT, DOCUMENT = 0.1, 0.1
"""Shares of the variance."""
DOCUMENTS = 40
"""Documents of the activating and as many of the silent windows; some have many of them."""


@dataclass(frozen=True)
class Sample:
    truth: np.ndarray  # [n]
    strata: np.ndarray  # [n] decile or quintile, 0: silent
    correct: np.ndarray  # [draws, n]
    clusters: np.ndarray  # [draws, n] what the preset's interval is clustered by
    decile: np.ndarray  # [draws, n]
    prompt: np.ndarray  # [draws, n]
    document: np.ndarray  # [draws, n]
    planted: float  # balanced accuracy


@dataclass(frozen=True)
class Design:
    """What a preset draws: activating examples of each stratum, silent ones, those of a prompt."""

    per_stratum: int
    quintiles: bool
    negatives: int
    per_prompt: int

    def sample(self, rng, draws, recall, specificity, *, prompt=PROMPT, document=DOCUMENT):
        """`recall`: [10] of the deciles."""
        uppers = np.arange(2, 11, 2) if self.quintiles else np.arange(1, 11)
        strata = np.concatenate(
            [np.repeat(uppers, self.per_stratum), np.zeros(self.negatives, int)]
        )
        n, truth = len(strata), strata > 0
        lower = self.quintiles * rng.integers(0, 2, (draws, n))
        decile = np.where(truth, strata - lower, 0)
        order = rng.permuted(np.broadcast_to(np.arange(n), (draws, n)), axis=1)
        prompts = np.empty((draws, n), np.int64)
        np.put_along_axis(
            prompts, order, np.broadcast_to(np.arange(n) // self.per_prompt, (draws, n)), axis=1
        )
        common = 1 / np.arange(1, DOCUMENTS + 1) ** 0.7
        documents = rng.choice(DOCUMENTS, (draws, n), p=common / common.sum())
        documents += np.where(truth, 0, DOCUMENTS)
        of_prompt = rng.standard_normal((draws, n))
        of_document = rng.standard_normal((draws, 2 * DOCUMENTS))
        own = 1 - document - (prompt if self.per_prompt > 1 else 0.0)
        noise = np.sqrt(own) * rng.standard_normal((draws, n))
        noise += np.sqrt(document) * np.take_along_axis(of_document, documents, 1)
        if self.per_prompt > 1:
            noise += np.sqrt(prompt) * np.take_along_axis(of_prompt, prompts, 1)
        right = np.where(truth, recall[np.maximum(decile, 1) - 1], specificity)
        return Sample(
            truth,
            strata,
            noise < ndtri(right),
            documents if self.per_prompt == 1 else prompts,
            decile,
            prompts,
            documents,
            (recall.mean() + specificity) / 2,
        )


DESIGNS = {
    "post": Design(5, False, 20, 5),
    "delphi": Design(5, False, 50, 5),
    "glossator": Design(5, True, 25, 1),
}
"""The presets that judge enough examples for a score."""


def recalls(mean, slope=0.06):
    """Recalls of the deciles that have a mean: the stronger, the better."""
    slope = min(slope, (0.995 - mean) / 4.5, (mean - 0.02) / 4.5)
    return mean + slope * (np.arange(10) - 4.5)


def intervals(sample):
    """Balanced accuracy as it is scored: [draws] lower and upper ends."""
    truth = sample.truth
    parts = [
        share_intervals(sample.correct[:, rows], sample.clusters[:, rows], sample.strata[rows])
        for rows in (truth, ~truth)
    ]
    return mover(*parts[0], *parts[1])


def naive_intervals(sample):
    """Wald's interval as if all answers were independent: what this is not."""
    parts = [sample.correct[:, rows] for rows in (sample.truth, ~sample.truth)]
    shares = [part.mean(axis=1) for part in parts]
    variance = sum(p * (1 - p) / part.shape[1] for p, part in zip(shares, parts, strict=True))
    value, half = sum(shares) / 2, norm.ppf(0.975) * np.sqrt(variance) / 2
    return value - half, value + half


def covered(sample, ends):
    """The share of the intervals that hold what was planted."""
    low, high = ends
    return float(np.mean((low <= sample.planted + 1e-12) & (sample.planted - 1e-12 <= high)))
