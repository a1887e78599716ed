"""The pre-activation of a token and a latent: the order of its sum, in plain torch.

    values = rescore_pairs(x, weight, rows, latents)    # float32[n]

Lane i of 32 adds `x[i + 32 t] * weight[i + 32 t]` for ascending t by fused multiply-add, from 0.
The lanes are then added by halving: i and i + 16, i and i + 8, and so on. Devices agree in every
bit.
"""

from __future__ import annotations

import torch

__all__ = ["fused", "pad_width", "rescore_pairs"]

_LANES = 32
_ELEMENTS = 1 << 22
"""Elements of a block of pairs (32 MiB of each operand in float32)."""


def fused(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """`a * b + c` of float32, rounded once.

    The product of two float32 is exact in float64. The sum there is rounded to odd (Boldo and
    Melquiond, "Emulation of a FMA and correctly rounded sums", 2008), which a second rounding to
    float32 cannot tell from the exact sum.
    """
    product = a.double() * b.double()
    addend = c.double()
    total = product + addend
    part = total - product
    lost = (product - (total - part)) + (addend - part)
    bits = total.view(torch.int64)
    nudge = torch.where((lost > 0) == (total > 0), 1, -1)
    inexact = ((lost > 0) | (lost < 0)) & (bits & 1 == 0)
    return torch.where(inexact, bits + nudge, bits).view(torch.float64).float()


def pad_width(x: torch.Tensor) -> torch.Tensor:
    """`x` [N, d] with zeros up to the next multiple of 32."""
    return torch.nn.functional.pad(x, (0, -x.shape[1] % _LANES))


def rescore_pairs(
    x: torch.Tensor, weight: torch.Tensor, rows: torch.Tensor, latents: torch.Tensor
) -> torch.Tensor:
    """The dot product of each pair of a token and a latent.

    Args:
        x: [N, d] operands of the type asked.
        weight: [L, d] of the same type.
        rows: int[n] tokens.
        latents: int[n] latents.

    Returns:
        float32[n], without bias.
    """
    x, weight = pad_width(x), pad_width(weight)
    out = torch.empty(len(rows), dtype=torch.float32, device=x.device)
    size = max(_ELEMENTS // x.shape[1], 1)
    for begin in range(0, len(rows), size):
        part = slice(begin, begin + size)
        left = _in_lanes(x[rows[part].long()])
        right = _in_lanes(weight[latents[part].long()])
        total = torch.zeros_like(left[:, 0])
        for step in range(left.shape[1]):
            total = fused(left[:, step], right[:, step], total)
        while total.shape[1] > 1:
            half = total.shape[1] // 2
            total = total[:, :half] + total[:, half:]
        out[part] = total[:, 0]
    return out


def _in_lanes(rows: torch.Tensor) -> torch.Tensor:
    """float32[n, D / 32, 32]."""
    return rows.float().reshape(len(rows), -1, _LANES)
