"""One bit of each pre-activation: could it be above its threshold?

    words = sign_bits(rows, operands, add, offset, n_rows)      # int32[N, P / 32]

A word holds the 32 columns of 128 that one thread of a tensor core's quad has: each sign is shifted
in, nothing moves between threads.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - a kernel is typed where it is compiled

from __future__ import annotations

import torch
import triton
import triton.language as tl

from glossator._kernels.operands import Operands, Rows
from glossator._kernels.product import INTERPRETED, n_tiles, product, tile_at, tile_shape

__all__ = ["bits_kernel", "sign_bits"]


@triton.jit
def _signs(values, word, C: tl.constexpr):
    """Shift the signs of [R, C, 4] into words [R, 4], the last of C first."""
    R: tl.constexpr = values.shape[0]
    if C == 1:
        # Two shifts and an or: one funnel shift.
        sign = tl.reshape(values, (R, 4)).to(tl.uint32, bitcast=True) >> 31
        return (word << 1) | sign
    else:  # noqa: RET505 - the other branch is not compiled
        halves = tl.permute(tl.reshape(values, (R, 2, C // 2, 4)), (0, 2, 3, 1))
        low, high = tl.split(halves)
        word = _signs(high, word, C // 2)
        return _signs(low, word, C // 2)


@triton.jit
def _bits_tile(
    t,
    x,
    w,
    add_ptr,
    offset_ptr,
    words_ptr,
    N,
    P,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    row, latent = tile_at(t, N, P, BM, BN, GROUP)
    total = product(x, w, row, latent, N, D, BM, BN, BK, DESCRIPTORS)
    rows = row + tl.arange(0, BM)
    total += tl.load(add_ptr + latent + tl.arange(0, BN))[None, :]
    total += tl.load(offset_ptr + rows, mask=rows < N, other=0.0)[:, None]
    R: tl.constexpr = BM * (BN // 128)
    # Columns are 16 blocks of 4 threads of 2: a thread's 32 are bits 2 block + place.
    owned = tl.permute(tl.reshape(total, (R, 16, 4, 2)), (0, 1, 3, 2))
    word = _signs(tl.reshape(owned, (R, 32, 4)), tl.zeros((R, 4), tl.uint32), 32)
    word = ~tl.reshape(word.to(tl.int32, bitcast=True), (BM, BN // 32))
    at = rows.to(tl.int64)[:, None] * (P // 32) + latent // 32 + tl.arange(0, BN // 32)[None, :]
    tl.store(words_ptr + at, word, mask=(rows < N)[:, None])


@triton.jit
def bits_kernel(
    x,
    w,
    add_ptr,
    offset_ptr,
    words_ptr,
    n_ptr,
    P,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    FLATTEN: tl.constexpr,
):
    """A bit of each pre-activation: whether `(product + add) + offset` is not negative."""
    N = tl.load(n_ptr)
    if INTERPRETED:
        t = tl.program_id(0)
        while t < n_tiles(N, P, BM, BN):
            _bits_tile(
                t, x, w, add_ptr, offset_ptr, words_ptr, N, P, D, BM, BN, BK, GROUP, DESCRIPTORS
            )
            t += tl.num_programs(0)
    else:
        n, step = n_tiles(N, P, BM, BN), tl.num_programs(0)
        for t in tl.range(tl.program_id(0), n, step, flatten=FLATTEN):
            _bits_tile(
                t, x, w, add_ptr, offset_ptr, words_ptr, N, P, D, BM, BN, BK, GROUP, DESCRIPTORS
            )


def sign_bits(
    rows: Rows, operands: Operands, add: torch.Tensor, offset: torch.Tensor, n_rows: torch.Tensor
) -> torch.Tensor:
    """Launch it: the words of every row.

    Args:
        rows: N tokens.
        operands: P latents, those that fill up included.
        add: float32[P], added to each latent's products.
        offset: float32[N], added to each token's; -inf for one that has no bits.
        n_rows: int32[1] how many of the rows there are, on the device.

    Returns:
        int32[N, P / 32].
    """
    n, padded = len(rows.product), len(operands.bias)
    device = operands.product.device
    words = torch.empty((n, padded // 32), dtype=torch.int32, device=device)
    if n:
        shape = tile_shape(operands.padded_width, device)
        x, w = shape.operands(rows.product, operands.product)
        bits_kernel[shape.grid(n, padded, device)](
            x,
            w,
            add,
            offset,
            words,
            n_rows,
            padded,
            **shape.constants(operands.padded_width),
            **shape.options(),
        )
    return words
