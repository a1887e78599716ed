"""Which latents are active together.

    near = index.cooccurrence([17, 42], top=10)
    near.neighbours[0]              # of latent 17, the best first
    near.jaccard[0], near.given[0]  # how well each overlaps, and P(neighbour | 17)

    pairs = index.coactivation([17, 42], neighbours)    # [2, k] latents, found otherwise
    pairs.npmi[0]                   # how often 17 is active together with each of its neighbours

All figures are exact counts over the whole index, `shared_tokens` apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["NO_NEIGHBOUR", "Coactivation", "Cooccurrence"]

NO_NEIGHBOUR = 2**32 - 1
"""Stands in `Cooccurrence.neighbours` where a latent has fewer neighbours than asked for."""


@dataclass(frozen=True, eq=False)
class Cooccurrence:
    """The neighbours of n latents, `top` for each, the best first.

    The unit is the token or the window of the grid. A neighbour shares at least one with the
    latent; where there are fewer, all its numbers are 0 and its id is `NO_NEIGHBOUR`.
    """

    latents: npt.NDArray[np.uint32]
    """Whose neighbours, [n], as asked for."""
    neighbours: npt.NDArray[np.uint32]
    """Latent ids, [n, top]; of equal Jaccards the smaller id comes first."""
    jaccard: npt.NDArray[np.float64]
    """Units of both over units of either, [n, top]."""
    both: npt.NDArray[np.uint64]
    """Number of units in which both are active, [n, top]."""
    given: npt.NDArray[np.float64]
    """P(neighbour | latent), [n, top]: units of both over the latent's."""
    given_back: npt.NDArray[np.float64]
    """P(latent | neighbour), [n, top]: units of both over the neighbour's."""


@dataclass(frozen=True, eq=False)
class Coactivation:
    """How often n latents are active together with k given neighbours each, per window.

    Where there is no neighbour `both` is 0 and all else NaN. So is what would be 0/0, where a
    latent is never active.
    """

    both: npt.NDArray[np.uint64]
    """Number of windows in which both are active, [n, k]."""
    jaccard: npt.NDArray[np.float64]
    """Windows of both over windows of either, [n, k]."""
    npmi: npt.NDArray[np.float64]
    """Normalised pointwise mutual information, [n, k], over all windows of the index: -1 never
    together, 0 as often as by chance, 1 only together. Bouma, GSCL 2009."""
    given: npt.NDArray[np.float64]
    """P(neighbour | latent), [n, k]: windows of both over the latent's."""
    given_back: npt.NDArray[np.float64]
    """P(latent | neighbour), [n, k]: windows of both over the neighbour's."""
    shared_tokens: npt.NDArray[np.float64]
    """Overlap of the tokens on which the two peak, [n, k]: the sum over tokens of the smaller
    share, 0 none in common, 1 the same. From 64 windows of each at most, always the same ones."""
