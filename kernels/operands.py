"""What a product needs of tokens and latents, prepared once, with the error that it can make.

    operands = Operands.of(weight, bias, dtype=torch.float32, device=device)     # once a coder
    rows = operands.rows(x)                                                      # once a batch

    rows.product @ operands.product.T        # bf16, proposes
    rows.exact, operands.exact               # rounded to the type asked, decide: see rescore.py

For every row i and latent j, with p the float32 product of the bf16 operands and r what `rescore`
gives for the exact ones, both with bias:

    |p - r| <= |x - x'| |w'| + |x| |w - w'| + (5/4 d + 64) 2^-24 (|x'| |w'| + |b|) = rows.margin[i]

x', w' are the bf16 operands, |w|, |w'|, |w - w'| and |b| the largest over latents. The first two
terms are the Cauchy-Schwarz inequality for what rounding left out. The third bounds the sums: a
tensor core adds 8 (8.x) or 16 (9.0 on) exact products to the sum at a time, aligned to the largest
of them and cut with at least two bits more than float32 has (Fasi et al., "Numerical behavior of
NVIDIA tensor cores", 2021; Khattak and Mikaitis, 2025), which is less than d 2^-24 in all; a
float32 sum of d terms in any order of 8 partial sums or more is below that too, as are the 32 lanes
of `rescore`.
"""
# ruff: noqa: ANN001, ANN202 - a kernel is typed where it is compiled

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
import triton
import triton.language as tl

from glossator._kernels.product import INTERPRETED
from glossator._kernels.reference import DTYPES
from glossator.errors import InputError

__all__ = ["Operands", "Rows", "prepare_rows"]

LATENTS = 256
"""Latents are padded to a multiple of this, the widest tile."""
WIDTH = 64
"""Widths are padded to a multiple of this, the widest step."""

_SEED = 20_240_731
"""Of the order of latents: any will do, as long as it stays the same."""
_BLOCK = 1_024
_LARGEST = 2.0**56
"""What an element of a token stays below: its square, 65,536 times, is a float32."""
_SUM_ERROR = 1.25 * 2.0**-24
_ROUNDED_UP = 1.0 + 2.0**-12
"""For the norms, which are float32 sums themselves."""


@dataclass(frozen=True)
class Rows:
    """A batch of tokens, as the kernels take it."""

    product: torch.Tensor
    """bf16[N, D]."""
    exact: torch.Tensor
    """[N, D] in the type asked; the same tensor where that is bf16."""
    margin: torch.Tensor
    """float32[N]: bound of a product's distance from its rescored value."""
    bad: torch.Tensor
    """int32[N]: 1 where the row holds NaN, infinity or 2^56 and more; its operands are zeros."""

    def take(self, rows: torch.Tensor) -> Rows:
        """Those of `rows`, int64[R]."""
        return Rows(self.product[rows], self.exact[rows], self.margin[rows], self.bad[rows])


@dataclass(frozen=True)
class Operands:
    """A coder's encoder on a device, its latents in a fixed random order.

    `latents[j]` is the one at position j, so that those that are numbered next to each other, and
    may be active together, share no group.
    """

    product: torch.Tensor
    """bf16[P, D], zeros beyond the latents and the width; P a multiple of 256, D of 64."""
    exact: torch.Tensor
    """[P, D] in the type asked, in the same order; the same tensor where that is bf16."""
    bias: torch.Tensor
    """float32[P], in the same order; -inf beyond the latents."""
    latents: torch.Tensor
    """int32[P]: the latent of each position, -1 beyond them."""
    n_latents: int
    """L."""
    width: int
    """d, of the tokens that are encoded."""
    input_bias: torch.Tensor | None
    """float32[d], taken off tokens first."""
    norm: float
    """Largest |w| and |w'|."""
    lost: float
    """Largest |w - w'|."""
    largest_bias: float
    """Largest |b|."""

    @classmethod
    def of(
        cls,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        input_bias: torch.Tensor | None = None,
    ) -> Self:
        """Prepare an encoder.

        Args:
            weight: float[L, d].
            bias: float[L], or None for zero.
            dtype: what tokens and weight are rounded to: float32, bfloat16 or float16.
            device: where; the weight's own by default.
            input_bias: float[d], taken off every token in float32 before it is rounded.

        Raises:
            InputError: shapes or devices disagree, or something is not finite.
        """
        if dtype not in DTYPES.values():
            raise InputError(f"dtype {dtype}: the operands are {', '.join(DTYPES)}")
        if weight.ndim != 2 or not weight.numel():
            raise InputError(f"weight has shape {list(weight.shape)}; [latents, width] is asked")
        n_latents, width = weight.shape
        if bias is not None and bias.shape != (n_latents,):
            raise InputError(f"bias has shape {list(bias.shape)}; [{n_latents}] is asked")
        if input_bias is not None and input_bias.shape != (width,):
            raise InputError(f"input bias has shape {list(input_bias.shape)}; [{width}] is asked")
        device = torch.device(device) if device is not None else weight.device
        padded = -(-n_latents // LATENTS) * LATENTS
        # On the CPU, so that it is the same for every device.
        order = torch.randperm(n_latents, generator=torch.Generator().manual_seed(_SEED)).to(device)
        exact = torch.zeros((padded, -(-width // WIDTH) * WIDTH), dtype=dtype, device=device)
        exact[:n_latents, :width] = weight.detach().to(device)[order].to(dtype)
        product = exact if dtype == torch.bfloat16 else exact.to(torch.bfloat16)
        biases = torch.full((padded,), -math.inf, device=device)
        biases[:n_latents] = 0.0 if bias is None else bias.detach().to(device).float()[order]
        latents = torch.full((padded,), -1, dtype=torch.int32, device=device)
        latents[:n_latents] = order.to(torch.int32)
        norm, lost = _norms(exact, product)
        largest_bias = float(biases[:n_latents].abs().max())
        if not math.isfinite(norm + lost + largest_bias):
            raise InputError(f"weight or bias is not finite, or too large for {dtype}")
        if input_bias is not None:
            input_bias = input_bias.detach().to(device).float().contiguous()
            if not bool(torch.isfinite(input_bias).all()):
                raise InputError("input bias is not finite")
        return cls(
            product=product,
            exact=exact,
            bias=biases,
            latents=latents,
            n_latents=n_latents,
            width=width,
            input_bias=input_bias,
            norm=norm,
            lost=lost,
            largest_bias=largest_bias,
        )

    @property
    def padded_width(self) -> int:
        """D."""
        return self.product.shape[1]

    def rows(self, x: torch.Tensor) -> Rows:
        """A batch of tokens, float[N, d] of any type and strides, on the operands' device.

        Raises:
            InputError: its shape, type or device is another.
        """
        return prepare_rows(x, self)


def _norms(exact: torch.Tensor, product: torch.Tensor) -> tuple[float, float]:
    """Bounds of |w|, |w'| and of |w - w'| over the latents."""
    largest, lost = 0.0, 0.0
    for begin in range(0, len(exact), 8_192):
        fine = exact[begin : begin + 8_192].float()
        coarse = product[begin : begin + 8_192].float()
        norms = torch.maximum(fine.norm(dim=1).max(), coarse.norm(dim=1).max())
        largest = max(largest, float(norms))
        lost = max(lost, float((fine - coarse).norm(dim=1).max()))
        if not math.isfinite(float(norms)):
            return math.inf, math.inf
    return largest * _ROUNDED_UP, lost * _ROUNDED_UP


@triton.jit
def _rounded(x, dtype: tl.constexpr):
    """Float32 to the nearest of a type, ties to even; the interpreter cuts bf16 off instead."""
    if INTERPRETED:  # noqa: SIM102 - both are known when it is compiled
        if dtype == tl.bfloat16:
            bits = x.to(tl.int32, bitcast=True)
            bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
            x = tl.where(tl.abs(x) < float("inf"), bits.to(tl.float32, bitcast=True), x)
    return x.to(dtype)


@triton.jit
def prepare_rows_kernel(
    x_ptr,
    input_bias_ptr,
    product_ptr,
    exact_ptr,
    margin_ptr,
    bad_ptr,
    stride_row,
    stride_column,
    width,
    norm,
    lost,
    largest_bias,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    BIASED: tl.constexpr,
    SAME: tl.constexpr,
    SUM_ERROR: tl.constexpr,
    LARGEST: tl.constexpr,
):
    """One program a row: both operands, the row's margin, whether it is finite."""
    row = tl.program_id(0).to(tl.int64)
    square = tl.zeros((BLOCK,), tl.float32)
    square_lost = tl.zeros((BLOCK,), tl.float32)
    square_product = tl.zeros((BLOCK,), tl.float32)
    finite = tl.full((BLOCK,), 1, tl.int32)
    for begin in tl.static_range(0, D, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        there = column < width
        x = tl.load(
            x_ptr + row * stride_row + column.to(tl.int64) * stride_column, mask=there, other=0.0
        ).to(tl.float32)
        if BIASED:
            x -= tl.load(input_bias_ptr + column, mask=there, other=0.0)
        exact = _rounded(x, exact_ptr.dtype.element_ty)
        # Not finite, or so large that squares overflow: nothing of it is used.
        usable = tl.abs(exact.to(tl.float32)) < LARGEST
        finite &= usable.to(tl.int32)
        fine = tl.where(usable, exact.to(tl.float32), 0.0)
        product = _rounded(fine, tl.bfloat16)
        coarse = product.to(tl.float32)
        left = fine - coarse
        square += fine * fine
        square_lost += left * left
        square_product += coarse * coarse
        tl.store(product_ptr + row * D + column, product, mask=column < D)
        if not SAME:
            tl.store(exact_ptr + row * D + column, exact, mask=column < D)
    long = tl.sqrt(tl.sum(square, 0)) * 1.001
    short = tl.sqrt(tl.sum(square_lost, 0)) * 1.001
    long_product = tl.sqrt(tl.sum(square_product, 0)) * 1.001
    sums = long_product * norm + largest_bias
    margin = short * norm + long * lost + sums * SUM_ERROR
    good = (tl.min(finite, 0) == 1) & (margin < float("inf"))
    tl.store(margin_ptr + row, tl.where(good, margin, 0.0))
    tl.store(bad_ptr + row, tl.where(good, 0, 1))
    if not good:
        for begin in tl.static_range(0, D, BLOCK):
            column = begin + tl.arange(0, BLOCK)
            zero = tl.zeros((BLOCK,), tl.float32)
            tl.store(product_ptr + row * D + column, zero.to(tl.bfloat16), mask=column < D)
            if not SAME:
                zero = zero.to(exact_ptr.dtype.element_ty)
                tl.store(exact_ptr + row * D + column, zero, mask=column < D)


def prepare_rows(x: torch.Tensor, operands: Operands) -> Rows:
    """As `Operands.rows`."""
    product = operands.product
    if x.ndim != 2 or x.shape[1] != operands.width:
        raise InputError(f"x has shape {list(x.shape)}; the weight asks for [N, {operands.width}]")
    if x.device != product.device:
        raise InputError(f"x is on {x.device}, the weight on {product.device}")
    if x.dtype not in (*DTYPES.values(), torch.float64):
        raise InputError(f"x is {x.dtype}; floating point is asked")
    n, D = len(x), operands.padded_width
    dtype = operands.exact.dtype
    same = dtype == torch.bfloat16
    coarse = torch.empty((n, D), dtype=torch.bfloat16, device=x.device)
    exact = coarse if same else torch.empty((n, D), dtype=dtype, device=x.device)
    margin = torch.empty(n, dtype=torch.float32, device=x.device)
    bad = torch.empty(n, dtype=torch.int32, device=x.device)
    if n:
        prepare_rows_kernel[(n,)](
            x.detach(),
            operands.input_bias if operands.input_bias is not None else margin,
            coarse,
            exact,
            margin,
            bad,
            x.stride(0),
            x.stride(1),
            operands.width,
            operands.norm,
            operands.lost,
            operands.largest_bias,
            D=D,
            BLOCK=min(triton.next_power_of_2(D), _BLOCK),
            BIASED=operands.input_bias is not None,
            SAME=same,
            # 64: the adding of lanes and biases, here and in `rescore`.
            SUM_ERROR=_SUM_ERROR * (D + 64),
            LARGEST=_LARGEST,
            num_warps=4,
        )
    return Rows(product=coarse, exact=exact, margin=margin, bad=bad)
