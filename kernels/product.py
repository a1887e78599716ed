"""The product of tokens and latents, one tile of pre-activations at a time, never in memory whole.

    shape = tile_shape(d, device)
    x, w = shape.operands(x_bf16, w_bf16)              # descriptors where the machine has TMA
    kernel[shape.grid(n, n_latents, device)](x, w, ..., **shape.constants(d), **shape.options())

    # in a kernel: each program takes one tile after another, and `_tile` begins with
    #     row, latent = tile_at(t, N, L, BM, BN, GROUP)
    #     total = product(x, w, row, latent, N, D, BM, BN, BK, DESCRIPTORS)
    if INTERPRETED:
        t = tl.program_id(0)
        while t < n_tiles(N, L, BM, BN):
            _tile(t, ...)
            t += tl.num_programs(0)
    else:
        n, step = n_tiles(N, L, BM, BN), tl.num_programs(0)
        for t in tl.range(tl.program_id(0), n, step, flatten=FLATTEN):
            _tile(t, ...)

Operands are bf16, the sum is float32. A flattened loop fetches the next tile's operands while this
tile's epilogue runs. The interpreter takes the `while`: a `range` with bounds that are known only
at run time fails in that of Triton 3.6 with NumPy 2.4.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - a kernel is typed where it is compiled

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

__all__ = [
    "BEFORE_TMA",
    "INTERPRETED",
    "LARGE",
    "SMALL",
    "TINY",
    "TileShape",
    "n_tiles",
    "product",
    "tile_at",
    "tile_shape",
]

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""Whether kernels run in the interpreter, on CPU tensors."""


@triton.jit
def n_tiles(N, L, BM: tl.constexpr, BN: tl.constexpr):
    """Tiles that cover [N, L]."""
    return tl.cdiv(N, BM) * tl.cdiv(L, BN)


@triton.jit
def tile_at(t, N, L, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr):
    """First row and first latent of tile t: GROUP rows of tiles are walked latent by latent.

    Programs that run at the same time then share a few tiles of either operand in L2.
    """
    across = tl.cdiv(L, BN)
    first = t // (GROUP * across) * GROUP
    tall = tl.minimum(tl.cdiv(N, BM) - first, GROUP)
    within = t % (GROUP * across)
    return (first + within % tall) * BM, within // tall * BN


@triton.jit
def product(
    x,
    w,
    row,
    latent,
    N,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    """Pre-activations without bias of BM rows and BN latents, float32[BM, BN].

    Args:
        x: bf16[N, D], by pointer or descriptor of blocks [BM, BK]. What rows beyond N give is
            nobody's: they are not to be stored.
        w: bf16[L, D], L a multiple of BN, by pointer or descriptor of blocks [BN, BK].
        row: the tile's first row.
        latent: its first latent.
        N: rows.
        D: width, a multiple of BK.
        BM: rows of a tile.
        BN: latents of a tile.
        BK: width of a step.
        DESCRIPTORS: whether `x` and `w` are descriptors.
    """
    total = tl.zeros((BM, BN), tl.float32)
    if DESCRIPTORS:
        for k in range(0, D, BK):
            total = _multiplied(x.load([row, k]), w.load([latent, k]).T, total)
    else:
        k_of = tl.arange(0, BK)
        # Rows beyond the last read it again: a mask on every load would cost more.
        rows = tl.minimum(row + tl.arange(0, BM), N - 1)
        x_ptrs = x + rows.to(tl.int64)[:, None] * D + k_of[None, :]
        w_ptrs = w + (latent + tl.arange(0, BN)).to(tl.int64)[None, :] * D + k_of[:, None]
        for _ in range(0, D, BK):
            total = _multiplied(tl.load(x_ptrs), tl.load(w_ptrs), total)
            x_ptrs += BK
            w_ptrs += BK
    return total


@triton.jit
def _multiplied(x, w, total):
    # The interpreter multiplies the bit patterns of bf16 as if they were integers.
    if INTERPRETED:
        x = x.to(tl.float32)
        w = w.to(tl.float32)
    return tl.dot(x, w, total, input_precision="ieee")


@dataclass(frozen=True)
class TileShape:
    """How the product is cut into tiles, and how many programs share them."""

    rows: int = 128
    """BM, tokens of a tile."""
    latents: int = 128
    """BN; 128 or 256."""
    width: int = 64
    """BK; operands are padded to a multiple of it."""
    group: int = 8
    """Rows of tiles that are walked together."""
    warps: int = 4
    """Warps of a program."""
    stages: int = 3
    """Steps of the product that are on their way at once."""
    resident: int = 2
    """Programs of one multiprocessor: while one selects, the other multiplies."""
    flatten: bool = False
    """Whether the loops over tiles and over the width are one: where one program is resident."""
    descriptors: bool = True
    """Whether tiles come through the tensor memory accelerator (compute capability 9.0 on)."""

    def operands(self, x: torch.Tensor, w: torch.Tensor) -> tuple[Any, Any]:
        """The first two arguments of a kernel: bf16[N, D] and bf16[L, D], contiguous."""
        if not self.descriptors:
            return x, w
        return (
            TensorDescriptor.from_tensor(x, [self.rows, self.width]),
            TensorDescriptor.from_tensor(w, [self.latents, self.width]),
        )

    def grid(self, n: int, n_latents: int, device: torch.device) -> tuple[int]:
        """Programs for n rows: as many as the device holds at once, at most one a tile."""
        tiles = triton.cdiv(n, self.rows) * triton.cdiv(n_latents, self.latents)
        if device.type != "cuda":
            return (min(tiles, 2),)
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        return (min(tiles, self.resident * processors),)

    def constants(self, d: int) -> dict[str, Any]:
        """The constants of a kernel that walks tiles, by name; d is the padded width."""
        return {
            "D": d,
            "BM": self.rows,
            "BN": self.latents,
            "BK": self.width,
            "GROUP": self.group,
            "DESCRIPTORS": self.descriptors,
            "FLATTEN": self.flatten,
        }

    def options(self) -> dict[str, int]:
        """What the compiler is told."""
        return {"num_warps": self.warps, "num_stages": self.stages}


LARGE = TileShape(latents=256, warps=8, resident=1, flatten=True)
"""The least traffic from L2 that registers allow: 48 bytes a cycle at the tensor cores' peak."""
SMALL = TileShape()
"""Two programs a multiprocessor: the epilogue of one hides behind the product of the other.

At the tensor cores' peak it asks L2 for 64 bytes a cycle and multiprocessor, all that there are."""
BEFORE_TMA = TileShape(width=32, stages=4, resident=1, flatten=True, descriptors=False)
"""For compute capability 8.x: asynchronous copies, 64 KiB of shared memory."""
TINY = TileShape(rows=4, width=32, group=2, descriptors=False)
"""For the interpreter: small, so that tests cover several tiles."""


def tile_shape(d: int, device: torch.device) -> TileShape:
    """The shape for operands of padded width d on a device."""
    if device.type != "cuda":
        return TINY
    capability = torch.cuda.get_device_capability(device)
    if capability < (9, 0):
        return BEFORE_TMA
    # From 10.0 on a thread owns whole rows of a tile, and those of 256 cost moves between threads.
    return LARGE if capability < (10, 0) else SMALL
