"""Latents above a threshold, in plain torch: every pre-activation summed in the order that decides.

    starts, latents, activations = threshold_encode(x, weight, bias, thresholds)

`x` and `weight` are the operands, rounded to the type asked. Memory and time are those of N L sums:
for tests, and for machines without a kernel.
"""

from __future__ import annotations

import torch

from glossator._kernels.reference_rescore import fused, rescore_pairs

__all__ = ["threshold_encode"]


def threshold_encode(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    thresholds: torch.Tensor,
    *,
    by_token: bool = False,
    magnitude: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents whose pre-activation is above a threshold, and positive.

    Args:
        x: [N, d] operands.
        weight: [L, d] operands.
        bias: float32[L].
        thresholds: float32[L], one a latent, or with `by_token` float32[N]; below 0 counts as 0.
        by_token: whether thresholds are those of tokens.
        magnitude: scale and bias of gated activations, float32[L] each.

    Returns:
        starts int64[N + 1], latents int32[nnz] ascending within a row, activations float32[nnz].
        A row that holds NaN or infinity, or leads to it, is empty.
    """
    n, n_latents = len(x), len(weight)
    rows = torch.arange(n, device=x.device).repeat_interleave(n_latents)
    latents = torch.arange(n_latents, device=x.device).repeat(n)
    dots = rescore_pairs(x, weight, rows, latents).view(n, n_latents)
    pre = dots + bias
    limits = thresholds.clamp(min=0)
    above = pre > (limits[:, None] if by_token else limits)
    values = pre
    if magnitude is not None:
        values = fused(magnitude[0].expand_as(dots), dots, magnitude[1].expand_as(dots))
        above &= values > 0
    good = torch.isfinite(x.float()).all(1) & torch.isfinite(values).all(1)
    above &= good[:, None]
    starts = torch.nn.functional.pad(above.sum(1).cumsum(0), (1, 0))
    return starts, above.nonzero()[:, 1].to(torch.int32), values[above]
