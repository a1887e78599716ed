"""Counts, maxima, sums and histograms of activations, by integer atomics on the device.

    activation_statistics(latents, activations, histogram, maximum, total)    # adds to the three

A histogram has 16 bins an octave from 2^-8 to 2^8: the bin is the exponent and the upper four bits
of the mantissa. Nothing depends on the order of the additions: runs repeat, and parts add up.
"""
# ruff: noqa: ANN001, ANN201 - a kernel is typed where it is compiled
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["activation_statistics", "statistics_kernel"]

_BLOCK = 1_024


@triton.jit
def statistics_kernel(
    latents_ptr,
    activations_ptr,
    n,
    n_latents,
    histogram_ptr,
    maximum_ptr,
    total_ptr,
    BLOCK: tl.constexpr,
):
    """One thread for an entry: an addition to its bin and to its sum, rarely a new maximum."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    latent = tl.load(latents_ptr + at, mask=at < n, other=-1)
    value = tl.load(activations_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    kept = (latent >= 0) & (latent < n_latents) & (value > 0)
    value = tl.where(kept, value, 0.0)
    # The bits of positive floats are ordered as the floats are.
    bits = value.to(tl.int32, bitcast=True)
    bin_ = tl.minimum(tl.maximum((bits >> 19) - (119 << 4), 0), 255)
    tl.atomic_add(histogram_ptr + latent.to(tl.int64) * 256 + bin_, 1, mask=kept, sem="relaxed")
    # What is read may be old, never too large: it only spares the atomic that cannot matter.
    held = tl.load(maximum_ptr + latent, mask=kept, other=0)
    tl.atomic_max(maximum_ptr + latent, bits, mask=kept & (bits > held), sem="relaxed")
    # 2^-20 units, halves up; clamped so that the conversion is defined.
    fixed = tl.minimum(value, 4398046511104.0).to(tl.float64) * 1048576.0 + 0.5
    tl.atomic_add(total_ptr + latent, fixed.to(tl.int64), mask=kept, sem="relaxed")


def activation_statistics(
    latents: torch.Tensor,
    activations: torch.Tensor,
    histogram: torch.Tensor,
    maximum: torch.Tensor,
    total: torch.Tensor,
) -> None:
    """Add activations to a latent's histogram, maximum and sum.

    An entry counts where its activation is positive and its latent lies in the dictionary; what
    fills a short row (latent 0xFFFFFFFF, -1 as int32) does not, nor does NaN.

    Args:
        latents: int32[n], contiguous.
        activations: float[n], contiguous.
        histogram: int32[L, 256], read as unsigned: bin `(bits >> 19) - 1904`, clamped to 0 to 255.
        maximum: float32[L], 0 where nothing was active.
        total: int64[L] in units of 2^-20.
    """
    n = latents.numel()
    if n:
        statistics_kernel[(triton.cdiv(n, _BLOCK),)](
            latents,
            activations,
            n,
            len(maximum),
            histogram,
            maximum.view(torch.int32),
            total,
            BLOCK=_BLOCK,
        )
