"""Plain-torch twins of the kernels: the same signatures, float32 inside, on any device.

    activations, latents = topk_encode(x, weight, bias, k=32)

They are what the CPU runs, and what every faster kernel is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from glossator.errors import InputError

__all__ = ["DTYPES", "NO_LATENT", "pre_activations", "topk_encode"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What operands can be rounded to."""

NO_LATENT = 0xFFFFFFFF
"""The latent that fills a row with fewer than `k` positive activations."""

_CHUNK_ELEMENTS = 1 << 24
"""Pre-activations held at once (64 MiB of float32)."""


def topk_encode(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    k: int,
    *,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest positive pre-activations `x @ weight.T + bias` of each row.

    Equal pre-activations go to the smaller latent, so that the result does not depend on the order
    in which a machine compares them.

    Args:
        x: float[N, d].
        weight: float[L, d].
        bias: float[L], or None for zero.
        k: how many to keep, at most L.
        dtype: what `x` and `weight` are rounded to; products and sums are float32.

    Returns:
        activations float32[N, k], descending, and latents int64[N, k]. A row with fewer than `k`
        positive pre-activations is filled with activation 0 and latent 0xFFFFFFFF.

    Raises:
        InputError: shapes disagree, `k` is out of range, or `x` holds NaN or infinity.
    """
    n_latents, width = weight.shape
    if x.ndim != 2 or x.shape[1] != width:
        raise InputError(f"x has shape {list(x.shape)}; the weight asks for [N, {width}]")
    if bias is not None and bias.shape != (n_latents,):
        raise InputError(f"bias has shape {list(bias.shape)}; the weight asks for [{n_latents}]")
    if not 1 <= k <= n_latents:
        raise InputError(f"k = {k}: not between 1 and the number of latents, {n_latents}")
    activations = torch.zeros((len(x), k), dtype=torch.float32, device=x.device)
    latents = torch.full((len(x), k), NO_LATENT, dtype=torch.int64, device=x.device)
    begin = 0
    for scores in pre_activations(x, weight, bias, dtype):
        rows = slice(begin, begin := begin + len(scores))
        values, ids = _topk(scores, k)
        kept = values > 0
        activations[rows] = values.masked_fill_(~kept, 0.0)
        latents[rows] = ids.masked_fill_(~kept, NO_LATENT)
    return activations, latents


def pre_activations(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
) -> Iterator[torch.Tensor]:
    """All pre-activations `x @ weight.T + bias`, float32[n, L] of some rows after others.

    Args:
        x: float[N, d].
        weight: float[L, d].
        bias: float[L], or None for zero.
        dtype: what `x` and `weight` are rounded to; products and sums are float32.

    Raises:
        InputError: `x` holds NaN or infinity; names the row.
    """
    turned = weight.to(dtype).float().T
    rows = max(_CHUNK_ELEMENTS // len(weight), 1)
    for begin in range(0, len(x), rows):
        part = x[begin : begin + rows]
        # The sum of a row is finite only if no entry is NaN or infinite (or it overflows).
        if not torch.isfinite(part.sum()) and len(bad := (~torch.isfinite(part)).nonzero()):
            raise InputError(f"x holds NaN or infinity in row {begin + int(bad[0, 0])}")
        operand = part.to(dtype).float()
        yield operand @ turned if bias is None else torch.addmm(bias.float(), operand, turned)


def _topk(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row, descending, the smaller index first among equals."""
    more = min(k + 1, scores.shape[1])
    values, ids = scores.topk(more, dim=1)
    tied = (values[:, 1:] == values[:, :-1]) & (values[:, 1:] > 0)
    rows = tied.any(1).nonzero()[:, 0]
    values, ids = values[:, :k].clone(), ids[:, :k].clone()
    if len(rows):
        ordered, order = scores[rows].sort(dim=1, descending=True, stable=True)
        values[rows], ids[rows] = ordered[:, :k], order[:, :k]
    return values, ids
