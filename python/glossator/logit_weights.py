"""How concentrated the logit weights of a latent are: does its direction say one thing?

    weights = LogitWeights.of(logit_directions(coder), subject.unembedding())
    weights.z[17], weights.tokens[17]            # 31.2 deviations above the mean, on 3 tokens

The logit weights of a latent are `W_U W_D[f]`: what its direction adds to the logit of each token
(nostalgebraist's logit lens, with the final norm left out).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from glossator.arrays import to_numpy
from glossator.errors import InputError

if TYPE_CHECKING:
    # `import glossator` loads no torch.
    import torch

    from glossator.coders import SparseCoder

__all__ = ["LogitWeights", "logit_directions"]

_TOP = 21
"""One more than are few: so that a latent of twenty tokens can be told from one of more."""
_ROWS = 256

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class LogitWeights:
    """The largest logit weights of each latent, and the mean and deviation of all.

    `z` is the largest weight in standard deviations above the mean; `tokens`, how many weights are
    at least half as far above it, as far as they are known. Of normal weights on V tokens the
    largest is about `chance`, √(2 ln V).
    """

    top: Floats
    """[L, k], descending."""
    mean: Floats
    """[L], over all tokens."""
    deviation: Floats
    """[L], over all tokens."""
    n_tokens: int
    """Tokens of the vocabulary, V."""

    @classmethod
    def of(
        cls,
        decoder: Any,  # noqa: ANN401 - NumPy or torch
        unembedding: Any,  # noqa: ANN401
        *,
        top: Any = None,  # noqa: ANN401
    ) -> Self:
        """Those of decoder rows.

        Args:
            decoder: float[L, d].
            unembedding: float[V, d].
            top: float[L, k], the largest weights, descending, where they are known (say
                `subject.logits(decoder, 21).top_values`): to find them takes a product of
                L · V · d, the mean and the deviation one of V · d² alone.

        Raises:
            InputError: other shapes.
        """
        rows, columns = to_numpy("decoder", decoder), to_numpy("unembedding", unembedding)
        if rows.ndim != 2 or columns.ndim != 2 or rows.shape[1] != columns.shape[1]:
            raise InputError(
                f"`decoder` is of {list(rows.shape)} and `unembedding` of {list(columns.shape)}; "
                "they must be [L, d] and [V, d] of one width"
            )
        rows, columns = (part.astype(np.float32, copy=False) for part in (rows, columns))
        V = len(columns)
        centre = columns.mean(axis=0, dtype=np.float64)
        moments = np.zeros((columns.shape[1], columns.shape[1]))
        for begin in range(0, V, 8_192):
            # Of centred numbers, so that float32 loses nothing in their sum of squares.
            part = columns[begin : begin + 8_192] - centre.astype(np.float32)
            moments += part.T @ part
        covariance = (moments / V).astype(np.float32)
        mean, variance = np.empty(len(rows)), np.empty(len(rows))
        largest = None if top is None else to_numpy("top", top).astype(np.float64)
        if largest is not None and (largest.ndim != 2 or len(largest) != len(rows)):
            raise InputError(f"`top` is of {list(largest.shape)}; it must be [{len(rows)}, k]")
        k = min(_TOP, V)
        found = np.empty((len(rows), k)) if largest is None else largest
        for begin in range(0, len(rows), _ROWS):
            some = slice(begin, begin + _ROWS)
            mean[some] = rows[some].astype(np.float64) @ centre
            product = (rows[some] @ covariance) * rows[some]
            variance[some] = product.sum(axis=1, dtype=np.float64)
            if largest is None:
                weights = rows[some] @ columns.T
                found[some] = -np.sort(np.partition(-weights, k - 1, axis=1)[:, :k], axis=1)
        return cls(found, mean, np.sqrt(np.maximum(variance, 0)), V)

    @property
    def z(self) -> npt.NDArray[np.float64]:
        """Of the largest weight, [L]; NaN where all are the same."""
        return self._z()[:, 0]

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """Weights at least half as far above the mean as the largest, [L]; k: k or more."""
        z = self._z()
        found: npt.NDArray[np.int64] = ((z >= z[:, :1] / 2) & (z > 0)).sum(axis=1)
        return found

    @property
    def chance(self) -> float:
        """What the largest of V normal weights is, in deviations."""
        return float(np.sqrt(2 * np.log(max(self.n_tokens, 2))))

    def _z(self) -> npt.NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (self.top - self.mean[:, None]) / self.deviation[:, None]
        return np.where(self.deviation[:, None] > 0, z, np.nan)


def logit_directions(coder: SparseCoder) -> torch.Tensor:
    """What each latent adds to the residual stream, float32[L, d]: the rows for logit weights.

    Of most coders those of its decoder. Of a cross-layer coder the sum of all its decoders'.
    """
    # Each of those is added to the residual stream at its layer, and what is once added stays: the
    # output layer reads their sum. The last layer's decoder alone would leave out what the others
    # say directly.
    every = list(coder.decoders.values())
    if len({rows.shape for rows in every}) != 1:
        return coder.decoder
    total = every[0].clone()
    for rows in every[1:]:
        total += rows
    return total
