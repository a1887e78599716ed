"""Counts, maxima, sums and histograms of activations, and runs by latent, in plain torch.

    activation_statistics(latents, activations, histogram, maximum, total)    # adds to the three
    starts, positions, activations = sort_by_latent(latents, activations, n_latents)

They are the definitions of the kernels of those names, on any device.
"""

from __future__ import annotations

import torch

__all__ = ["activation_statistics", "bins_of", "sort_by_latent"]

_LOWEST = 119 << 4
_LARGEST = 2.0**42


def bins_of(activations: torch.Tensor) -> torch.Tensor:
    """The bin of each positive float32: 16 an octave, from 2^-8 to 2^8, clamped to 0 to 255."""
    return ((activations.view(torch.int32) >> 19) - _LOWEST).clamp(0, 255)


def activation_statistics(
    latents: torch.Tensor,
    activations: torch.Tensor,
    histogram: torch.Tensor,
    maximum: torch.Tensor,
    total: torch.Tensor,
) -> None:
    """Add activations to a latent's histogram, maximum and sum.

    Args:
        latents: int32[n]; those outside the dictionary are left out.
        activations: float[n]; those that are not positive are left out.
        histogram: int32[L, 256], read as unsigned.
        maximum: float32[L], 0 where nothing was active.
        total: int64[L] in units of 2^-20, each activation rounded, halves up.
    """
    values = activations.float()
    kept = (latents >= 0) & (latents < len(maximum)) & (values > 0)
    ids, values = latents[kept].long(), values[kept]
    one = torch.ones((), dtype=torch.int32, device=ids.device).expand(len(ids))
    histogram.view(-1).index_add_(0, ids * 256 + bins_of(values), one)
    maximum.scatter_reduce_(0, ids, values, "amax")
    fixed = (values.clamp(max=_LARGEST).double() * 2.0**20 + 0.5).long()
    total.index_add_(0, ids, fixed)


def sort_by_latent(
    latents: torch.Tensor,
    rows: torch.Tensor,
    activations: torch.Tensor,
    n_latents: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Entries by latent, then by row.

    Args:
        latents: int[n]; those outside the dictionary are left out.
        rows: int[n] ascending.
        activations: float[n]; those that are not positive are left out.
        n_latents: L.

    Returns:
        starts int64[L + 1], positions int32[nnz], activations as given [nnz].
    """
    kept = (latents >= 0) & (latents < n_latents) & (activations > 0)
    ids, order = latents[kept].sort(stable=True)
    edges = torch.arange(n_latents + 1, device=latents.device, dtype=ids.dtype)
    starts = torch.searchsorted(ids, edges)
    return starts, rows[kept][order].to(torch.int32), activations[kept][order]
