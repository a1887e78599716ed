"""What the activations of each latent look like: counts, maxima, means and quantiles.

statistics = ActivationStatistics(n_latents)
statistics.add(latents, activations)      # of any batch, NumPy or torch, on any device
statistics.merge(other)                   # of another machine; parts add up exactly
statistics.density(n_tokens), statistics.activation_quantiles([0.1, 0.5, 0.9])

For progress, triage and densities. The deciles that examples are drawn from are those of windows,
and exact: `Index.deciles`.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from glossator import _core
from glossator.errors import InputError
from glossator.folders import new_file

if TYPE_CHECKING:
    import torch

__all__ = ["ActivationStatistics"]

BINS = 256
"""Bins of a latent, 16 an octave from 2^-8 to 2^8; the first and last hold what lies outside."""

_UNIT = 2.0**-20
_ROWS = 4_096
"""Latents whose quantiles are computed together (64 MiB)."""


@dataclass
class _Tables:
    """What one device adds to; histograms are unsigned, so that 2^32 entries fit."""

    histogram: torch.Tensor
    maximum: torch.Tensor
    total: torch.Tensor
    entries: int = 0


class ActivationStatistics:
    """Counts, maxima, sums and histograms of single activations, latent by latent.

    All of it is integers and maxima: the same for any order and size of batches, and for any split
    over devices and machines. One latent takes 1 KiB on a device, 2 KiB where results are read.

    Args:
        n_latents: latents of the dictionary.

    Raises:
        InputError: `n_latents` is not positive.
    """

    def __init__(self, n_latents: int) -> None:
        if n_latents < 1:
            raise InputError(f"`n_latents` is {n_latents}; it must be at least 1")
        self.n_latents = n_latents
        self._tables: dict[torch.device, _Tables] = {}
        self._histogram: npt.NDArray[np.uint64] | None = None
        self._maximum = np.zeros(n_latents, np.float32)
        self._total = np.zeros(n_latents, np.int64)

    def add(self, latents: Any, activations: Any) -> None:  # noqa: ANN401 - NumPy or torch
        """Count a batch, where it lies; nothing waits for a device.

        Args:
            latents: ids, any integer dtype and shape; 0xFFFFFFFF (or -1) is no latent.
            activations: of the same shape; what is not positive is not counted.

        Raises:
            InputError: shapes disagree, or (on a CPU, where looking is cheap) an id lies outside
                the dictionary or an activation is infinite. On a GPU such an id is not counted.
        """
        import torch

        ids = _as_tensor(latents)
        values = _as_tensor(activations)
        if ids.shape != values.shape:
            raise InputError(
                f"`latents` has shape {list(ids.shape)} and `activations` {list(values.shape)}; "
                "they must agree"
            )
        if ids.device != values.device:
            raise InputError(
                f"`latents` is on {ids.device} and `activations` on {values.device}; "
                "move one of them"
            )
        ids = ids.to(torch.int32).reshape(-1).contiguous()
        values = values.reshape(-1).contiguous()
        on_cpu = ids.device.type == "cpu"
        if on_cpu and len(wrong := ids[(ids < -1) | (ids >= self.n_latents)]):
            raise InputError(f"`latents` holds {int(wrong[0])}; there are {self.n_latents} latents")
        tables = self._of(ids.device)
        if tables.entries + len(ids) >= 2**32:
            self._gather()
            tables = self._of(ids.device)
        if on_cpu:
            _core.add_statistics(
                ids.numpy().view(np.uint32),
                values.float().numpy(),
                tables.histogram.numpy().view(np.uint32),
                tables.maximum.numpy(),
                tables.total.numpy(),
            )
        else:
            from glossator._kernels.activation_statistics import activation_statistics

            activation_statistics(ids, values, tables.histogram, tables.maximum, tables.total)
        tables.entries += len(ids)

    def merge(self, other: ActivationStatistics) -> None:
        """Add what another has counted.

        Raises:
            InputError: it is of another number of latents.
        """
        if other.n_latents != self.n_latents:
            raise InputError(
                f"statistics of {other.n_latents} latents cannot be added to those of "
                f"{self.n_latents}"
            )
        theirs = other._gather()
        ours = self._gather()
        ours += theirs
        np.maximum(self._maximum, other._maximum, out=self._maximum)
        self._total += other._total

    def histogram(self) -> npt.NDArray[np.uint64]:
        """Activations in each bin, uint64[L, 256].

        Bin b begins at `2^(b // 16 - 8) (1 + b % 16 / 16)`.
        """
        return self._gather().copy()

    def counts(self) -> npt.NDArray[np.uint64]:
        """How often each latent was active, uint64[L]."""
        counts: npt.NDArray[np.uint64] = self._gather().sum(axis=1, dtype=np.uint64)
        return counts

    def density(self, n_tokens: int) -> npt.NDArray[np.float64]:
        """The share of tokens on which each latent was active, float64[L].

        Args:
            n_tokens: tokens that were encoded, with or without activations.

        Raises:
            InputError: `n_tokens` is not positive.
        """
        if n_tokens < 1:
            raise InputError(f"`n_tokens` is {n_tokens}; it must be at least 1")
        return np.divide(self.counts(), n_tokens, dtype=np.float64)

    def maximum(self) -> npt.NDArray[np.float32]:
        """The largest activation of each latent, float32[L]; 0 where it was never active."""
        self._gather()
        return self._maximum.copy()

    def mean(self) -> npt.NDArray[np.float64]:
        """The mean activation of each latent where it was active, float64[L].

        Each activation is rounded to 2^-20. NaN where it was never active, or so strongly and so
        often that the sum could have left 64 bits (count times maximum of 2^43 and more).
        """
        counts = self.counts().astype(np.float64)
        sound = (counts > 0) & (counts * self._maximum < 2.0**43)
        means = np.full(self.n_latents, np.nan)
        means[sound] = self._total[sound] * _UNIT / counts[sound]
        return means

    def activation_quantiles(self, q: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Quantiles of single activations, interpolated within their bin.

        A value's rank is off by at most the share of the latent's activations that lie in its bin
        (`rank_error`): over the deciles of lognormal activations, of spread 0.4 to 1, 0.3 % of them
        in the mean and 3 % at most.

        Args:
            q: shares between 0 and 1, [Q].

        Returns:
            float32[L, Q]; NaN where a latent was never active.

        Raises:
            InputError: a share lies outside 0 to 1.
        """
        return self._over_bins(q)[0]

    def rank_error(self, q: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """By how much the rank of each quantile may be off at most, as a share: float64[L, Q].

        With n activations, of which `below` are smaller than the value and `upto` no larger:
        `below / n - error <= q <= upto / n + error`.
        """
        return self._over_bins(q)[1]

    def save(self, path: str | Path) -> None:
        """Write them to an `.npz` file, whole or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        histogram = self._gather()
        with new_file(Path(path)) as file:
            np.savez_compressed(file, histogram=histogram, maximum=self._maximum, total=self._total)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: there is no such file, or it holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                histogram, maximum, total = (
                    held[name] for name in ("histogram", "maximum", "total")
                )
        except FileNotFoundError as error:
            raise InputError(f"file `{path}`: not found") from error
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise InputError(f"file `{path}`: no statistics of activations ({error})") from error
        kinds = (histogram.dtype, maximum.dtype, total.dtype)
        shapes = (histogram.shape, maximum.shape, total.shape)
        n = len(maximum) if maximum.ndim else 0
        if kinds != (np.uint64, np.float32, np.int64) or shapes != ((n, BINS), (n,), (n,)) or not n:
            raise InputError(
                f"file `{path}`: holds {', '.join(map(str, shapes))}, no statistics of activations"
            )
        made = cls(n)
        made._histogram, made._maximum, made._total = histogram, maximum, total
        return made

    def _of(self, device: torch.device) -> _Tables:
        """The tables of a device, made when it is first seen."""
        import torch

        if device not in self._tables:
            n = self.n_latents
            self._tables[device] = _Tables(
                torch.zeros((n, BINS), dtype=torch.int32, device=device),
                torch.zeros(n, dtype=torch.float32, device=device),
                torch.zeros(n, dtype=torch.int64, device=device),
            )
        return self._tables[device]

    def _gather(self) -> npt.NDArray[np.uint64]:
        """Take in what the devices have counted; the histogram, uint64[L, 256]."""
        if self._histogram is None:
            self._histogram = np.zeros((self.n_latents, BINS), np.uint64)
        for tables in self._tables.values():
            if not tables.entries:
                continue
            self._histogram += tables.histogram.cpu().numpy().view(np.uint32)
            np.maximum(self._maximum, tables.maximum.cpu().numpy(), out=self._maximum)
            self._total += tables.total.cpu().numpy()
            tables.histogram.zero_()
            tables.maximum.zero_()
            tables.total.zero_()
            tables.entries = 0
        return self._histogram

    def _over_bins(
        self, q: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """Quantiles [L, Q] and the shares of the bins that they lie in."""
        shares = np.atleast_1d(np.asarray(q, np.float64))
        if shares.ndim != 1 or not ((shares >= 0) & (shares <= 1)).all():
            raise InputError("`q` must be shares between 0 and 1")
        values = np.full((self.n_latents, len(shares)), np.nan, np.float32)
        errors = np.full((self.n_latents, len(shares)), np.nan)
        histogram = self._gather()
        for begin in range(0, self.n_latents, _ROWS):
            part = slice(begin, begin + _ROWS)
            upto = histogram[part].cumsum(axis=1, dtype=np.float64)
            live = upto[:, -1] > 0
            upto, largest = upto[live], self._maximum[part][live]
            top = (upto < upto[:, -1:]).sum(axis=1)
            for place, share in enumerate(shares):
                rank = share * upto[:, -1]
                # The first bin that reaches the rank; for rank 0 the first that holds anything.
                found = np.minimum((upto < np.maximum(rank, 0.5)[:, None]).sum(axis=1), top)
                row = np.arange(len(upto))
                before = np.where(found > 0, upto[row, found - 1], 0.0)
                inside = upto[row, found] - before
                low, high = _EDGES[found], np.where(found == top, largest, _EDGES[found + 1])
                low = np.minimum(low, high)
                value = low + (high - low) * np.clip((rank - before) / inside, 0, 1)
                values[part][live, place] = value
                errors[part][live, place] = inside / upto[:, -1]
        return values, errors


def _as_tensor(value: Any) -> torch.Tensor:  # noqa: ANN401 - NumPy or torch
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach()
    array = np.ascontiguousarray(value)
    if array.dtype == np.uint32:
        array = array.view(np.int32)
    return torch.from_numpy(array)


def _edges() -> npt.NDArray[np.float64]:
    """Where bins begin: the first, which holds all that is smaller too, at 0."""
    edges = [math.ldexp(1 + b % 16 / 16, b // 16 - 8) for b in range(BINS + 1)]
    return np.array([0.0, *edges[1:]])


_EDGES = _edges()
