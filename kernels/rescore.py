"""The pre-activation of single pairs of a token and a latent, summed in one fixed order.

    values = rescore_pairs(x, weight, rows, latents)    # float32[n]

A fast product proposes, this decides: the same bits on every device, whatever proposed. The order
is that of `glossator._kernels.reference_rescore`, where it is written out.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - a kernel is typed where it is compiled

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["rescore", "rescore_pairs"]

_PAIRS = 32
"""Pairs of a program of `rescore_pairs`."""

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def fused(a, b, c):
    """`a * b + c` in float32, rounded once; the interpreter's own `tl.fma` rounds twice.

    There the sum is taken in float64, where the product is exact, and rounded to odd: what float32
    then rounds is on the right side of every tie.
    """
    if _INTERPRETED:
        product = a.to(tl.float64) * b.to(tl.float64)
        addend = c.to(tl.float64)
        total = product + addend
        part = total - product
        lost = (product - (total - part)) + (addend - part)
        bits = total.to(tl.int64, bitcast=True)
        nudge = tl.where((lost > 0) == (total > 0), 1, -1)
        even = (bits & 1) == 0
        inexact = (lost > 0) | (lost < 0)
        bits += tl.where(even & inexact, nudge, 0)
        return bits.to(tl.float64, bitcast=True).to(tl.float32)
    else:  # noqa: RET505 - the other branch is not compiled
        return tl.fma(a, b, c)


@triton.jit
def _halved(lanes, C: tl.constexpr):
    """Lanes [C, 32] added by halving: i and i + 16, then i and i + 8, down to one."""
    # A sum of two has one order; so each reduction is the same on any layout of threads.
    lanes = tl.sum(tl.reshape(lanes, (C, 2, 16)), 1)
    lanes = tl.sum(tl.reshape(lanes, (C, 2, 8)), 1)
    lanes = tl.sum(tl.reshape(lanes, (C, 2, 4)), 1)
    lanes = tl.sum(tl.reshape(lanes, (C, 2, 2)), 1)
    return tl.sum(lanes, 1)


@triton.jit
def _step(total, x_ptr, w_ptrs, t, seen):
    """One more element of each lane; `x_ptr` points to 32 (one token) or [C, 32] (a token each)."""
    w = tl.load(w_ptrs + t * 32, mask=seen, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + t * 32).to(tl.float32)
    return fused(x, w, total)


@triton.jit
def rescore(x_row_ptr, w_ptr, latents, mask, D: tl.constexpr):
    """Dot products of one token with C latents, float32[C]; 0 where `mask` is False.

    Args:
        x_row_ptr: the token's D values, rounded to the type asked.
        w_ptr: the weight's rows of D values of that type.
        latents: int32[C] rows of the weight.
        mask: bool[C]; latents out of the mask are not read.
        D: width of a row, a multiple of 32.
    """
    C: tl.constexpr = latents.shape[0]
    lane = tl.arange(0, 32)
    x_ptr = x_row_ptr + lane[None, :]
    w_ptrs = w_ptr + latents.to(tl.int64)[:, None] * D + lane[None, :]
    return _dots(x_ptr, w_ptrs, mask, D, C)


@triton.jit
def _dots(x_ptr, w_ptrs, mask, D: tl.constexpr, C: tl.constexpr):
    # Several steps' loads are in flight together: as many as registers hold.
    AHEAD: tl.constexpr = 4 if w_ptrs.dtype.element_ty == tl.float32 else 8
    STEPS: tl.constexpr = D // 32
    WHOLE: tl.constexpr = STEPS // AHEAD * AHEAD
    total = tl.zeros((C, 32), tl.float32)
    seen = mask[:, None]
    for begin in tl.range(0, WHOLE, AHEAD):
        for t in tl.static_range(AHEAD):
            total = _step(total, x_ptr, w_ptrs, begin + t, seen)
    for t in tl.static_range(WHOLE, STEPS):
        total = _step(total, x_ptr, w_ptrs, t, seen)
    return _halved(total, C)


@triton.jit
def rescore_pairs_kernel(
    x_ptr,
    w_ptr,
    rows_ptr,
    latents_ptr,
    out_ptr,
    n,
    D: tl.constexpr,
    C: tl.constexpr,
):
    """One program for C pairs, each with a token of its own."""
    pair = tl.program_id(0).to(tl.int64) * C + tl.arange(0, C)
    mask = pair < n
    row = tl.load(rows_ptr + pair, mask=mask, other=0).to(tl.int64)
    latent = tl.load(latents_ptr + pair, mask=mask, other=0).to(tl.int64)
    lane = tl.arange(0, 32)
    x_ptrs = x_ptr + row[:, None] * D + lane[None, :]
    w_ptrs = w_ptr + latent[:, None] * D + lane[None, :]
    tl.store(out_ptr + pair, _dots(x_ptrs, w_ptrs, mask, D, C), mask=mask)


def rescore_pairs(
    x: torch.Tensor, weight: torch.Tensor, rows: torch.Tensor, latents: torch.Tensor
) -> torch.Tensor:
    """The dot product of each pair of a token and a latent.

    Args:
        x: [N, D] operands of the type asked, D a multiple of 32 (zeros beyond the width).
        weight: [L, D] of the same type.
        rows: int[n] tokens.
        latents: int[n] latents.

    Returns:
        float32[n], without bias.
    """
    n = len(rows)
    out = torch.empty(n, dtype=torch.float32, device=x.device)
    if n:
        rescore_pairs_kernel[(triton.cdiv(n, _PAIRS),)](
            x, weight, rows, latents, out, n, D=x.shape[1], C=_PAIRS, num_warps=1
        )
    return out
