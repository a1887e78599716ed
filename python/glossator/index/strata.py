"""The strata of silent windows: with one of a latent's commonest peak tokens, or without.

    strata = silent_strata(index, [17, 42], seed=0)
    strata.sizes                              # [2, 2] windows without such a token, and with one
    strata.of(17, examples.start)             # 0 or 1 for each window

What a negative stands for at the rate at which windows are met is its stratum's size ÷ what was
drawn of it. Negatives of kind `random` and of kind `peak_token` drawn `even` are fair draws from
their strata.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glossator import _core
from glossator.arrays import flat_ids, whole
from glossator.errors import InputError
from glossator.index.reader import Index

__all__ = ["SilentStrata", "silent_strata"]


@dataclass(frozen=True, slots=True, eq=False)
class SilentStrata:
    """How many eligible score-side windows of each stratum are silent, of each latent."""

    index: Index
    """What was counted."""
    latents: npt.NDArray[np.uint32]
    """[n] latents, as asked for."""
    tokens: tuple[npt.NDArray[np.uint32], ...]
    """[n] the up to 20 commonest tokens of up to 256 peaks of the explain side, the commonest
    first."""
    sizes: npt.NDArray[np.uint64]
    """[n, 2] silent windows that hold none of them, and that hold one."""

    def of(self, latent: int, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The stratum of the windows that hold these positions: 1 with such a token, or 0.

        Raises:
            InputError: the latent was not asked for, or the index has no such position.
        """
        rows = np.flatnonzero(self.latents == latent)
        if not len(rows):
            raise InputError(f"`latent` {latent} is not in the strata; name it in `silent_strata`")
        places = flat_ids("positions", positions, np.uint64)
        return _core.holds(self.index._core, self.tokens[rows[0]], places).astype(np.int64)


def silent_strata(index: Index, latents: npt.ArrayLike, seed: int = 0) -> SilentStrata:
    """Count the silent windows of some latents by stratum; exact.

    Args:
        index: the index.
        latents: [n] latent ids.
        seed: of the draw of peaks where a latent has more than 256: the same as of the examples.

    Raises:
        InputError: the index has no such latent.
    """
    ids = flat_ids("latents", latents, np.uint32)
    found = _core.silent_strata(index._core, ids, whole("seed", seed, 2**64))
    ends = np.cumsum(found["n_tokens"].astype(np.int64))
    tokens = np.split(found["tokens"], ends[:-1]) if len(ids) else []
    sizes = np.stack([found["without"], found["holding"]], axis=1)
    return SilentStrata(index, ids, tuple(tokens), sizes)
