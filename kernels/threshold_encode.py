"""Latents above a threshold, exactly: JumpReLU, ReLU, BatchTopK at inference, gated.

    found = threshold_encode(x, operands, thresholds)    # starts int64[N + 1], latents, activations
    found = threshold_encode(x, operands, thresholds, capacity=64 * N).settle()    # waits here only

1. `sign_bits`: the product, whose epilogue keeps one bit of each pre-activation: whether it could
   be above its threshold, a margin allowed for.
2. `count_kernel`, `expand_kernel`: words become lists of candidates, rows one after another.
3. `decide_kernel` rescores candidates and keeps those above; `pack_kernel` closes the gaps.

Any number may be above: where the lists do not fit, `settle` makes longer ones from the same bits.
"""
# ruff: noqa: ANN001, ANN202 - a kernel is typed where it is compiled

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from glossator._kernels.operands import Operands, Rows
from glossator._kernels.rescore import fused, rescore
from glossator._kernels.sign_bits import sign_bits
from glossator.errors import InputError

__all__ = ["ThresholdRows", "threshold_encode", "threshold_rows"]

_WORDS_AT_ONCE = 256 << 20
"""Bytes of bits that are held at a time."""
_CANDIDATES = 16
"""Candidates that are rescored at once."""


@triton.jit
def _ones(word):
    """Bits set in each word."""
    bits = word.to(tl.uint32, bitcast=True)
    bits -= (bits >> 1) & 0x55555555
    bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F
    bits += bits >> 8
    bits += bits >> 16
    return (bits & 0x3F).to(tl.int32)


@triton.jit
def count_kernel(words_ptr, counts_ptr, n_ptr, W: tl.constexpr, BLOCK: tl.constexpr):
    """Bits of a row, one program each; none beyond the last row."""
    row = tl.program_id(0)
    words = tl.where(row < tl.load(n_ptr), W, 0)
    ones = tl.zeros((BLOCK,), tl.int32)
    for begin in tl.range(0, W, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        mask = at < words
        ones += _ones(tl.load(words_ptr + row.to(tl.int64) * W + at, mask=mask, other=0))
    tl.store(counts_ptr + row, tl.sum(ones, 0).to(tl.int64))


@triton.jit
def expand_kernel(
    words_ptr, starts_ptr, candidates_ptr, capacity, W: tl.constexpr, BLOCK: tl.constexpr
):
    """The positions of a row's bits, one program each; rows that do not fit are left."""
    row = tl.program_id(0)
    start = tl.load(starts_ptr + row)
    end = tl.load(starts_ptr + row + 1)
    if (end > start) & (end <= capacity):
        for begin in tl.range(0, W, BLOCK):
            at = begin + tl.arange(0, BLOCK)
            word = tl.load(words_ptr + row.to(tl.int64) * W + at, mask=at < W, other=0)
            ones = _ones(word)
            to = start + tl.cumsum(ones, 0) - ones
            start += tl.sum(ones, 0)
            first = (at // 4) * 128 + (at % 4) * 2
            while tl.max((word != 0).to(tl.int32), 0) > 0:
                bit = _ones((word & -word) - 1)
                tl.store(candidates_ptr + to, first + (bit // 2) * 8 + bit % 2, mask=word != 0)
                to += 1
                word &= word - 1


@triton.jit
def decide_kernel(
    x_ptr,
    w_ptr,
    bias_ptr,
    latents_ptr,
    thresholds_ptr,
    scale_ptr,
    shift_ptr,
    starts_ptr,
    candidates_ptr,
    found_ptr,
    values_ptr,
    counts_ptr,
    bad_ptr,
    capacity,
    D: tl.constexpr,
    C: tl.constexpr,
    BY_TOKEN: tl.constexpr,
    GATED: tl.constexpr,
):
    """Rescore a row's candidates and keep those above, in order; one program each."""
    row = tl.program_id(0)
    start = tl.load(starts_ptr + row)
    n = tl.load(starts_ptr + row + 1) - start
    n = tl.where(start + n <= capacity, n, 0)
    kept = start * 0
    begin = start * 0
    finite = kept == 0
    while begin < n:
        at = begin + tl.arange(0, C)
        mask = at < n
        position = tl.load(candidates_ptr + start + at, mask=mask, other=0)
        dot = rescore(x_ptr + row.to(tl.int64) * D, w_ptr, position, mask, D)
        pre = dot + tl.load(bias_ptr + position, mask=mask, other=0.0)
        place = position * 0 + row if BY_TOKEN else position
        above = mask & (pre > tl.load(thresholds_ptr + place, mask=mask, other=0.0))
        value = pre
        if GATED:
            scale = tl.load(scale_ptr + position, mask=mask, other=0.0)
            value = fused(scale, dot, tl.load(shift_ptr + position, mask=mask, other=0.0))
            above = above & (value > 0)
        finite = finite & (tl.max(tl.where(above, value, 0.0), 0) < float("inf"))
        ones = above.to(tl.int32)
        to = start + kept + tl.cumsum(ones, 0) - ones
        latent = tl.load(latents_ptr + position, mask=mask, other=-1)
        tl.store(found_ptr + to, latent, mask=above)
        tl.store(values_ptr + to, value, mask=above)
        kept += tl.sum(ones, 0)
        begin += C
    tl.store(counts_ptr + row, kept)
    if not finite:
        tl.store(bad_ptr + row, 1)


@triton.jit
def pack_kernel(
    found_ptr, values_ptr, from_ptr, to_ptr, latents_ptr, activations_ptr, BLOCK: tl.constexpr
):
    """Move what a row kept to where it belongs, one program each."""
    row = tl.program_id(0)
    source = tl.load(from_ptr + row)
    target = tl.load(to_ptr + row)
    n = tl.load(to_ptr + row + 1) - target
    begin = n * 0
    while begin < n:
        at = begin + tl.arange(0, BLOCK)
        mask = at < n
        tl.store(latents_ptr + target + at, tl.load(found_ptr + source + at, mask=mask), mask=mask)
        value = tl.load(values_ptr + source + at, mask=mask)
        tl.store(activations_ptr + target + at, value, mask=mask)
        begin += BLOCK


@dataclass
class ThresholdRows:
    """What is active in each row: row i has the entries from `starts[i]` to `starts[i + 1]`.

    Entries of a row come in a fixed order, which is not that of the latents' numbers.
    """

    starts: torch.Tensor
    """int64[N + 1]."""
    latents: torch.Tensor
    """int32[n], n at least `starts[N]`; -1 beyond."""
    activations: torch.Tensor
    """float32[n]; 0 beyond."""
    bad: torch.Tensor
    """int32[N]: 1 where a row holds NaN or infinity, or leads to it; such a row has no entries."""
    _pending: _Pending | None = None

    def settle(self) -> ThresholdRows:
        """Wait for the device; the whole result, exactly as long as it is."""
        pending = self._pending
        whole = self
        if pending is not None and (needed := int(pending.candidates[-1])) > len(self.latents):
            whole = _compacted(pending, needed)
        n = int(whole.starts[-1])
        return ThresholdRows(whole.starts, whole.latents[:n], whole.activations[:n], whole.bad)


@dataclass(frozen=True)
class _Pending:
    """What lists are made of."""

    rows: Rows
    operands: Operands
    words: torch.Tensor
    candidates: torch.Tensor
    thresholds: torch.Tensor
    by_token: bool
    magnitude: tuple[torch.Tensor, torch.Tensor] | None


def threshold_encode(
    x: torch.Tensor,
    operands: Operands,
    thresholds: torch.Tensor | None = None,
    *,
    token_thresholds: torch.Tensor | None = None,
    magnitude: tuple[torch.Tensor, torch.Tensor] | None = None,
    capacity: int | None = None,
    rows: torch.Tensor | None = None,
    n_rows: torch.Tensor | None = None,
) -> ThresholdRows:
    """Latents whose pre-activation is above a threshold, and positive.

    Args:
        x: float[N, d].
        operands: the encoder.
        thresholds: float32[L], one a latent; those below 0 count as 0.
        token_thresholds: float32[N] instead, one a token.
        magnitude: scale and bias, float32[L] each: an activation is the positive part of
            `scale * dot + bias`, rounded once, dot the pre-activation without bias (gated coders).
        capacity: entries that there is room for. Without it the device is waited for once.
        rows: int32[R] the rows to encode, on the device; all by default. Row i of the result is
            then `rows[i]`.
        n_rows: int32[1] how many of `rows` there are, on the device; beyond, rows are empty.

    Returns:
        The active latents; with `capacity` they are all there after `settle`.

    Raises:
        InputError: shapes or devices disagree.
    """
    if (thresholds is None) == (token_thresholds is None):
        raise InputError("give `thresholds` (one a latent) or `token_thresholds` (one a token)")
    n = len(x)
    device = operands.product.device
    given = token_thresholds if thresholds is None else thresholds
    assert given is not None
    for name, value, length in (
        ("thresholds", given, operands.n_latents if thresholds is not None else n),
        *((("magnitude", part, operands.n_latents) for part in magnitude) if magnitude else ()),
    ):
        if value.shape != (length,) or value.device != device:
            raise InputError(
                f"`{name}` has shape {list(value.shape)} on {value.device}; "
                f"[{length}] on {device} is asked"
            )
    at_once = max(_WORDS_AT_ONCE // (len(operands.bias) // 8), 1)
    if n > at_once and rows is None and capacity is None:
        return _in_parts(x, operands, thresholds, token_thresholds, magnitude, at_once)
    prepared = operands.rows(x)
    if rows is not None:
        chosen = rows.long().clamp(0, max(n - 1, 0))
        prepared = prepared.take(chosen)
        if token_thresholds is not None:
            token_thresholds = token_thresholds[chosen]
    return threshold_rows(
        prepared,
        operands,
        thresholds,
        token_thresholds=token_thresholds,
        magnitude=magnitude,
        capacity=capacity,
        n_rows=n_rows,
    )


def threshold_rows(
    rows: Rows,
    operands: Operands,
    thresholds: torch.Tensor | None = None,
    *,
    token_thresholds: torch.Tensor | None = None,
    magnitude: tuple[torch.Tensor, torch.Tensor] | None = None,
    capacity: int | None = None,
    n_rows: torch.Tensor | None = None,
) -> ThresholdRows:
    """As `threshold_encode`, of rows that are prepared; one of the two kinds of thresholds."""
    n, device = len(rows.product), rows.product.device
    if n_rows is None:
        n_rows = torch.full((1,), n, dtype=torch.int32, device=device)
    add, offset = operands.bias, rows.margin
    if thresholds is not None:
        limits = _placed(thresholds.float().clamp(min=0), operands)
        add = _up(add - limits)
    else:
        assert token_thresholds is not None
        limits = token_thresholds.float().clamp(min=0)
        offset = _up(offset - limits)
    offset = offset.masked_fill(rows.bad != 0, -math.inf).contiguous()
    words = sign_bits(rows, operands, add, offset, n_rows)
    width = words.shape[1]
    counts = torch.zeros(n, dtype=torch.int64, device=device)
    if n:
        count_kernel[(n,)](words, counts, n_rows, W=width, BLOCK=_block(width))
    placed = tuple(_placed(part.float(), operands) for part in magnitude) if magnitude else None
    pending = _Pending(
        rows,
        operands,
        words,
        _starts(counts),
        limits,
        thresholds is None,
        (placed[0], placed[1]) if placed else None,
    )
    if capacity is None:
        return _compacted(pending, int(pending.candidates[-1])).settle()
    return _compacted(pending, capacity)


def _compacted(pending: _Pending, capacity: int) -> ThresholdRows:
    """Lists of what is active, as far as `capacity` candidates go."""
    n, device = len(pending.words), pending.words.device
    operands, starts = pending.operands, pending.candidates
    positions, found = (torch.empty(capacity, dtype=torch.int32, device=device) for _ in range(2))
    values = torch.empty(capacity, dtype=torch.float32, device=device)
    latents = torch.full((capacity,), -1, dtype=torch.int32, device=device)
    activations = torch.zeros(capacity, dtype=torch.float32, device=device)
    counts = torch.zeros(n, dtype=torch.int64, device=device)
    bad = pending.rows.bad.clone()
    scale, shift = pending.magnitude or (operands.bias, operands.bias)
    if n and capacity:
        width = pending.words.shape[1]
        expand_kernel[(n,)](
            pending.words, starts, positions, capacity, W=width, BLOCK=_block(width)
        )
        decide_kernel[(n,)](
            pending.rows.exact,
            operands.exact,
            operands.bias,
            operands.latents,
            pending.thresholds,
            scale,
            shift,
            starts,
            positions,
            found,
            values,
            counts,
            bad,
            capacity,
            D=operands.padded_width,
            C=_CANDIDATES,
            BY_TOKEN=pending.by_token,
            GATED=pending.magnitude is not None,
            num_warps=1,
        )
    counts.masked_fill_(bad != 0, 0)
    ends = _starts(counts)
    if n and capacity:
        pack_kernel[(n,)](found, values, starts, ends, latents, activations, BLOCK=128, num_warps=1)
    return ThresholdRows(ends, latents, activations, bad, pending)


def _in_parts(
    x: torch.Tensor,
    operands: Operands,
    thresholds: torch.Tensor | None,
    token_thresholds: torch.Tensor | None,
    magnitude: tuple[torch.Tensor, torch.Tensor] | None,
    at_once: int,
) -> ThresholdRows:
    """Some rows after others, put together."""
    parts = []
    for begin in range(0, len(x), at_once):
        part = slice(begin, begin + at_once)
        own = None if token_thresholds is None else token_thresholds[part]
        parts.append(
            threshold_encode(
                x[part], operands, thresholds, token_thresholds=own, magnitude=magnitude
            )
        )
    counts = torch.cat([part.starts.diff() for part in parts])
    return ThresholdRows(
        _starts(counts),
        torch.cat([part.latents for part in parts]),
        torch.cat([part.activations for part in parts]),
        torch.cat([part.bad for part in parts]),
    )


def _starts(counts: torch.Tensor) -> torch.Tensor:
    """Where each row begins, and where the last ends."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def _placed(values: torch.Tensor, operands: Operands) -> torch.Tensor:
    """Values of latents in the order of the operands, 0 beyond."""
    there = operands.latents[: operands.n_latents].long()
    return torch.nn.functional.pad(values[there], (0, len(operands.bias) - operands.n_latents))


def _up(values: torch.Tensor) -> torch.Tensor:
    """The next larger float32; infinities stay."""
    above = torch.nextafter(values, torch.full_like(values, math.inf))
    return torch.where(torch.isinf(values), values, above)


def _block(width: int) -> int:
    """Words of a row that are read together."""
    return min(int(triton.next_power_of_2(width)), 256)
