"""Which latents are active together.

    near = index.cooccurrence([17, 42], top=10)
    near.neighbours[0]              # of latent 17, the best first
    near.jaccard[0], near.given[0]  # how well each overlaps, and P(neighbour | 17)

All figures are exact counts over the whole index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["NO_NEIGHBOUR", "Cooccurrence"]

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
