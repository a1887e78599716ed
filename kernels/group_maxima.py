"""Of each token and group of latents the few largest pre-activations, kept by a product's epilogue.

    keep = grouping(n_latents, k, torch.bfloat16)       # groups of 128 and 4 of each, for instance
    group_maxima_kernel[grid](x, w, bias, kept, ...)    # kept int32[N, L / G, M]

A kept integer holds a value's bits, cut off at the end for its place in the group: values that are
not negative compare as their bits do. What is kept is found by sorting networks in registers.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - a kernel is typed where it is compiled

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl

from glossator._kernels.product import INTERPRETED, TileShape, n_tiles, product, tile_at

__all__ = ["Grouping", "group_maxima_kernel", "grouping", "tiles"]


@triton.jit
def _order(a, b):
    return tl.maximum(a, b), tl.minimum(a, b)


@triton.jit
def _sorted4(a, b, c, d):
    a, b = _order(a, b)
    c, d = _order(c, d)
    a, c = _order(a, c)
    b, d = _order(b, d)
    b, c = _order(b, c)
    return a, b, c, d


@triton.jit
def _merge4(a1, a2, a3, a4, b1, b2, b3, b4):
    """The four largest of two descending fours: a bitonic sequence, then sorted."""
    c1, c3 = _order(tl.maximum(a1, b4), tl.maximum(a3, b2))
    c2, c4 = _order(tl.maximum(a2, b3), tl.maximum(a4, b1))
    c1, c2 = _order(c1, c2)
    c3, c4 = _order(c3, c4)
    return c1, c2, c3, c4


@triton.jit
def _top6_of_fours(a1, a2, a3, a4, b1, b2, b3, b4):
    """The six largest of two descending fours: the network of eight without its last two."""
    h1, l1 = _order(a1, b4)
    h2, l2 = _order(a2, b3)
    h3, l3 = _order(a3, b2)
    h4, l4 = _order(a4, b1)
    h1, h3 = _order(h1, h3)
    h2, h4 = _order(h2, h4)
    h1, h2 = _order(h1, h2)
    h3, h4 = _order(h3, h4)
    l1, l2 = _order(tl.maximum(l1, l3), tl.maximum(l2, l4))
    return h1, h2, h3, h4, l1, l2


@triton.jit
def _merge6(a1, a2, a3, a4, a5, a6, b1, b2, b3, b4, b5, b6):
    """The six largest of two descending sixes: the network of eight, two of which are infinite."""
    u1, l1 = _order(tl.maximum(a1, b6), tl.maximum(a5, b2))
    u2, l2 = _order(tl.maximum(a2, b5), tl.maximum(a6, b1))
    u1, u2 = _order(u1, u2)
    l1, l3 = _order(l1, tl.maximum(a3, b4))
    l2, l4 = _order(l2, tl.maximum(a4, b3))
    l1, l2 = _order(l1, l2)
    l3, l4 = _order(l3, l4)
    return u1, u2, l1, l2, l3, l4


@triton.jit
def _quarters(t, BM: tl.constexpr, GROUPS: tl.constexpr, WIDE: tl.constexpr):
    """[BM, GROUPS * 4 * WIDE] as four of [BM, GROUPS, WIDE]: all four in the same thread."""
    t = tl.permute(tl.reshape(t, (BM, GROUPS, 2, 2, WIDE)), (0, 1, 4, 2, 3))
    low, high = tl.split(t)
    a, b = tl.split(low)
    c, d = tl.split(high)
    return a, b, c, d


@triton.jit
def _group_maxima_tile(
    t,
    x,
    w,
    bias_ptr,
    kept_ptr,
    N,
    L,
    stride,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    G: tl.constexpr,
    M: tl.constexpr,
):
    row, latent = tile_at(t, N, L, BM, BN, GROUP)
    total = product(x, w, row, latent, N, D, BM, BN, BK, DESCRIPTORS)
    column = tl.arange(0, BN)
    total += tl.load(bias_ptr + latent + column)[None, :]
    # Floats that are not negative are ordered as their bits; the place takes the lowest of those.
    packed = (total.to(tl.int32, bitcast=True) & -G) | (column % G)[None, :]
    GROUPS: tl.constexpr = BN // G
    rows = row + tl.arange(0, BM)
    group = latent // G + tl.arange(0, GROUPS)
    out = kept_ptr + rows.to(tl.int64)[:, None] * stride + group[None, :] * M
    mask = (rows < N)[:, None] & (group >= 0)[None, :]
    a, b, c, d = _quarters(packed, BM, GROUPS, G // 4)
    if M == 4:
        a, b, c, d = _sorted4(a, b, c, d)
        a, b, c, d = tl.reduce((a, b, c, d), 2, _merge4)
    else:
        a1, b1, c1, d1 = _sorted4(a, b, c, d)
        e = tl.reshape(tl.join(a1, b1), (BM, GROUPS, 2, G // 8, 2))
        f = tl.reshape(tl.join(c1, d1), (BM, GROUPS, 2, G // 8, 2))
        e0, e1 = tl.split(tl.permute(e, (0, 1, 3, 4, 2)))
        f0, f1 = tl.split(tl.permute(f, (0, 1, 3, 4, 2)))
        p1, p2 = tl.split(e0)
        p3, p4 = tl.split(f0)
        q1, q2 = tl.split(e1)
        q3, q4 = tl.split(f1)
        a, b, c, d, e, f = _top6_of_fours(p1, p2, p3, p4, q1, q2, q3, q4)
        a, b, c, d, e, f = tl.reduce((a, b, c, d, e, f), 2, _merge6)
        tl.store(out + 4, e, mask=mask)
        tl.store(out + 5, f, mask=mask)
    tl.store(out, a, mask=mask)
    tl.store(out + 1, b, mask=mask)
    tl.store(out + 2, c, mask=mask)
    tl.store(out + 3, d, mask=mask)


@triton.jit
def group_maxima_kernel(
    x,
    w,
    bias_ptr,
    kept_ptr,
    N,
    L,
    stride,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    FLATTEN: tl.constexpr,
    G: tl.constexpr,
    M: tl.constexpr,
):
    """Of each token and group of G latents the M largest, descending: kept int32[N, L / G, M]."""
    if INTERPRETED:
        t = tl.program_id(0)
        while t < n_tiles(N, L, BM, BN):
            _group_maxima_tile(
                t, x, w, bias_ptr, kept_ptr, N, L, stride, D, BM, BN, BK, GROUP, DESCRIPTORS, G, M
            )
            t += tl.num_programs(0)
    else:
        n, step = n_tiles(N, L, BM, BN), tl.num_programs(0)
        for t in tl.range(tl.program_id(0), n, step, flatten=FLATTEN):
            _group_maxima_tile(
                t, x, w, bias_ptr, kept_ptr, N, L, stride, D, BM, BN, BK, GROUP, DESCRIPTORS, G, M
            )


@dataclass(frozen=True)
class Grouping:
    """What the epilogue keeps."""

    group: int
    """G, latents of a group: a power of two."""
    kept: int
    """M, 4 or 6 of each."""

    def bytes(self, n_latents: int) -> int:
        """Memory a token."""
        return -(-n_latents // self.group) * self.kept * 4

    def failing(self, n_latents: int, candidates: float) -> float:
        """Bound of the share of tokens that fail the check, for this many above the bound."""
        groups = max(n_latents / self.group, 1.0)
        ways = math.prod((candidates - i) / (i + 1) for i in range(self.kept))
        return max(ways, 0.0) / groups ** (self.kept - 1)


_GROUPINGS = tuple(Grouping(group, kept) for kept in (4, 6) for group in (256, 128, 64))
_MOST_BYTES = 12 * 1024
_MOST_FAILING = 0.004


def grouping(n_latents: int, k: int, dtype: torch.dtype, tile: int = 256) -> Grouping:
    """What to keep: the fewest instructions with under 12 KiB a token and 0.4 % that fail.

    Args:
        n_latents: L.
        k: how many are asked.
        dtype: float32 operands have wider margins, and so more latents within them.
        tile: latents of a tile, which holds whole groups.
    """
    candidates = k * (1.1 if dtype == torch.bfloat16 else 1.7)
    options = [g for g in _GROUPINGS if g.group <= tile]
    small = [g for g in options if g.bytes(n_latents) <= _MOST_BYTES] or options[:1]
    for option in small:
        if option.failing(n_latents, candidates) <= _MOST_FAILING:
            return option
    return min(small, key=lambda option: option.failing(n_latents, candidates))


def tiles(shape: TileShape, keep: Grouping) -> TileShape:
    """The tiles with which this is kept.

    Groups of 256 leave no registers for the next tile's fetches: with them 255 are used, and Triton
    3.9 spills; without, 221 to 234.
    """
    return replace(shape, flatten=False) if keep.group >= 256 else shape
