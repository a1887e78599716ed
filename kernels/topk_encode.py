"""The k largest positive pre-activations of each token, exactly, without writing the others.

    found = topk_encode(x, operands, k=32)    # latents int32[N, k], activations float32[N, k]
    found.settle()                            # one look at the device: tokens that need more

1. `group_maxima_kernel`: the product, whose epilogue keeps of each group of G latents the M largest
   pre-activations, as one integer of value and place.
2. `merge_kernel`: a token's k-th largest kept value, less two margins, bounds the k-th largest
   rescored value from below. What is kept above the bound is rescored and ranked. Should the M-th
   of a group lie above the bound, a fifth might have been lost, and the token fails the check.
3. Tokens that failed are listed on the device; `settle` gives them all that lies above their bound,
   by `threshold_encode`, and ranks that.

With latents in random order and n of them above the bound, a token fails with a probability of less
than C(n, M) / (L / G)^(M - 1), 0.2 % for 32 of 32,768.
"""
# ruff: noqa: ANN001, ANN202 - a kernel is typed where it is compiled

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from glossator._kernels.group_maxima import Grouping, group_maxima_kernel, grouping, tiles
from glossator._kernels.operands import Operands, Rows
from glossator._kernels.product import TileShape, tile_shape
from glossator._kernels.rescore import rescore
from glossator._kernels.threshold_encode import threshold_rows
from glossator.errors import InputError

__all__ = ["TopK", "topk_encode"]

_LOWEST = tl.constexpr(-(2**31))
_STEP = tl.constexpr(16)
"""Candidates that are rescored at once."""


@triton.jit
def _bound(values, K: tl.constexpr):
    """The k-th largest of non-negative float bits or a little less: K of `values` are above it."""
    # An octave is 2^23; the search ends within 2^-15 of it, and costs what the bits between cost.
    high = tl.max(values, 0) + 1
    low = tl.maximum(high - 2 * 8388608, 0)
    if tl.sum((values >= low).to(tl.int32), 0) < K:
        low = 0
    while high - low > 256:
        middle = low + (high - low) // 2
        if tl.sum((values >= middle).to(tl.int32), 0) >= K:
            low = middle
        else:
            high = middle
    return low


@triton.jit
def merge_kernel(
    kept_ptr,
    x_ptr,
    w_ptr,
    bias_ptr,
    latents_ptr,
    margin_ptr,
    bad_ptr,
    out_latents_ptr,
    out_activations_ptr,
    bounds_ptr,
    failed_ptr,
    n_failed_ptr,
    first,
    stride,
    D: tl.constexpr,
    K: tl.constexpr,
    KEPT: tl.constexpr,
    G: tl.constexpr,
    M: tl.constexpr,
    CANDIDATES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    OF_MAXIMA: tl.constexpr,
):
    """One program a token: bound, check, rescore, rank. Candidates overwrite the token's `kept`."""
    at = tl.program_id(0).to(tl.int64)
    token = first + at
    kept_row = kept_ptr + at * stride
    i = tl.arange(0, BLOCK)
    kept = tl.load(kept_row + i, mask=i < KEPT, other=_LOWEST)
    if OF_MAXIMA:
        g = tl.arange(0, BLOCK_GROUPS)
        maxima = tl.load(kept_row + g * M, mask=g < KEPT // M, other=_LOWEST)
        low = _bound(maxima & -G, K)
    else:
        low = _bound(kept & -G, K)
    margin = tl.load(margin_ptr + token)
    bad = tl.load(bad_ptr + token) != 0
    bound = low.to(tl.float32, bitcast=True) - 2 * margin
    # What was cut off for the place makes a value look smaller by less than G 2^-23 of it.
    value = (kept & -G).to(tl.float32, bitcast=True)
    candidate = (value * (1 + G / 8388608) >= bound) & (kept >= 0)
    lost = candidate & (i % M == M - 1)
    n = tl.sum(candidate.to(tl.int32), 0)
    # Below a bound that is not positive negative values count, and those are in no order.
    good = (bound > 0) & (tl.max(lost.to(tl.int32), 0) == 0) & (n <= CANDIDATES)
    slot = tl.arange(0, BLOCK_K)
    out = token * K + slot
    if good & (bad == 0):
        place = tl.cumsum(candidate.to(tl.int32), 0) - 1
        tl.debug_barrier()
        tl.store(kept_row + place, i // M * G + (kept & (G - 1)), mask=candidate)
        tl.debug_barrier()
        scores_row = (kept_row + CANDIDATES).to(tl.pointer_type(tl.float32), bitcast=True)
        ids_row = kept_row + 2 * CANDIDATES
        begin = 0
        while begin < n:
            c = begin + tl.arange(0, _STEP)
            position = tl.load(kept_row + c, mask=c < n, other=0)
            score = rescore(x_ptr + token * D, w_ptr, position, c < n, D)
            score += tl.load(bias_ptr + position, mask=c < n, other=0.0)
            tl.store(scores_row + c, score, mask=c < n)
            tl.store(ids_row + c, tl.load(latents_ptr + position, mask=c < n, other=0), mask=c < n)
            begin += _STEP
        tl.debug_barrier()
        c = tl.arange(0, CANDIDATES)
        score = tl.load(scores_row + c, mask=c < n, other=0.0)
        latent = tl.load(ids_row + c, mask=c < n, other=0)
        rank = tl.zeros((CANDIDATES,), tl.int32)
        begin = 0
        while begin < n:
            o = begin + tl.arange(0, _STEP)
            other = tl.load(scores_row + o, mask=o < n, other=0.0)[None, :]
            other_latent = tl.load(ids_row + o, mask=o < n, other=0)[None, :]
            equal = (other == score[:, None]) & (other_latent < latent[:, None])
            before = (other > score[:, None]) | equal
            rank += tl.sum((before & (o < n)[None, :]).to(tl.int32), 1)
            begin += _STEP
        chosen = (c < n) & (score > 0) & (rank < K)
        tl.store(out_latents_ptr + token * K + rank, latent, mask=chosen)
        tl.store(out_activations_ptr + token * K + rank, score, mask=chosen)
        n_chosen = tl.sum(chosen.to(tl.int32), 0)
        rest = (slot < K) & (slot >= n_chosen)
        tl.store(out_latents_ptr + out, tl.full((BLOCK_K,), -1, tl.int32), mask=rest)
        tl.store(out_activations_ptr + out, tl.zeros((BLOCK_K,), tl.float32), mask=rest)
    else:
        tl.store(out_latents_ptr + out, tl.full((BLOCK_K,), -1, tl.int32), mask=slot < K)
        tl.store(out_activations_ptr + out, tl.zeros((BLOCK_K,), tl.float32), mask=slot < K)
        if bad == 0:
            tl.store(bounds_ptr + token, bound)
            tl.store(failed_ptr + tl.atomic_add(n_failed_ptr, 1), token.to(tl.int32))


@dataclass
class TopK:
    """What was found; complete once `settle` has run."""

    latents: torch.Tensor
    """int32[N, k], by activation descending, -1 where there are fewer."""
    activations: torch.Tensor
    """float32[N, k], 0 there."""
    bad: torch.Tensor
    """int32[N]: 1 for tokens with NaN, infinity or what overflows; they have no latents."""
    failed: torch.Tensor
    """int32[N]: first the tokens that failed the check, in any order."""
    bounds: torch.Tensor
    """float32[N]: for those tokens, what their k largest are above, where they are positive."""
    fallback: torch.Tensor
    """int32[1]: how many those are."""
    rows: Rows
    """The operands of the batch."""
    operands: Operands
    """Those of the coder."""
    settled: bool = False
    """Whether those tokens have been done."""

    def settle(self) -> TopK:
        """Do the tokens that failed the check; waits for the device.

        Raises:
            InputError: a token is not finite; the line names the first.
        """
        if not self.settled:
            if n := int(self.fallback):
                _settle_rows(self, self.failed[:n].sort().values.long())
            self.settled = True
        return self

    def refuse_bad(self) -> TopK:
        """Raise an InputError that names the first token that is not finite; waits."""
        if len(bad := self.bad.nonzero()):
            raise InputError(f"x holds NaN, infinity or too large a value in row {int(bad[0, 0])}")
        return self


_SETTLED_AT_ONCE = 1 << 25
"""Pre-activations of a step of `settle`: some 700 MB of lists, should all of them be positive."""


def _settle_rows(found: TopK, tokens: torch.Tensor) -> None:
    """All that lies above the token's bound, which holds the k largest, and the first k of it."""
    operands, rows = found.operands, found.rows
    k = found.latents.shape[1]
    for part in tokens.split(max(_SETTLED_AT_ONCE // len(operands.bias), 1)):
        below = torch.nextafter(found.bounds[part], found.bounds.new_tensor(-math.inf))
        above = threshold_rows(rows.take(part), operands, token_thresholds=below)
        latents, scores = above.latents, above.activations
        counts = above.starts.diff()
        token = torch.repeat_interleave(
            torch.arange(len(part), device=part.device), counts, output_size=len(latents)
        )
        # By latent, then stably by value, then stably by token: ties go to the smaller latent.
        order = latents.sort(stable=True).indices
        order = order[scores[order].sort(stable=True, descending=True).indices]
        order = order[token[order].sort(stable=True).indices]
        rank = torch.arange(len(token), device=part.device) - above.starts[token]
        chosen = rank < k
        place, rank, order = part[token[chosen]], rank[chosen], order[chosen]
        found.latents[place, rank] = latents[order]
        found.activations[place, rank] = scores[order]


def topk_encode(
    x: torch.Tensor,
    operands: Operands,
    k: int,
    *,
    shape: TileShape | None = None,
    keep: Grouping | None = None,
    memory: int | None = None,
) -> TopK:
    """The k largest positive pre-activations of each token.

    Nothing here waits for the device, unless memory runs out; the result's `settle` does.

    Args:
        x: float[N, d] of any type and strides, on the operands' device.
        operands: the encoder.
        k: how many to keep, at most L.
        shape: tiles; by default what suits the device.
        keep: what the epilogue keeps; by default what suits L and k.
        memory: bytes that may be in use for kept values; by default a quarter of what is free.

    Returns:
        What is known without waiting: see `TopK`.

    Raises:
        InputError: shapes, types or devices disagree, `k` is out of range, or memory does not
            suffice for 128 tokens.
    """
    L = operands.n_latents
    if not 1 <= k <= L:
        raise InputError(f"k = {k}: not between 1 and the number of latents, {L}")
    rows = operands.rows(x)
    device = x.device
    n, D = len(x), operands.padded_width
    shape = shape or tile_shape(D, device)
    keep = keep or grouping(L, k, operands.exact.dtype, shape.latents)
    shape = tiles(shape, keep)
    packed = len(operands.bias)
    n_kept = packed // keep.group * keep.kept
    candidates = max(triton.next_power_of_2(2 * k), 64)
    stride = max(n_kept, 3 * candidates)
    latents = torch.empty((n, k), dtype=torch.int32, device=device)
    activations = torch.empty((n, k), dtype=torch.float32, device=device)
    failed = torch.empty(n, dtype=torch.int32, device=device)
    bounds = torch.empty(n, dtype=torch.float32, device=device)
    fallback = torch.zeros(1, dtype=torch.int32, device=device)
    step = _tokens_at_once(n, stride, shape.rows, device, memory)
    kept = _room(step, stride, device)
    for first in range(0, n, len(kept) or 1):
        part = rows.product[first : first + len(kept)]
        a, b = shape.operands(part, operands.product)
        group_maxima_kernel[shape.grid(len(part), packed, device)](
            a,
            b,
            operands.bias,
            kept,
            len(part),
            packed,
            stride,
            G=keep.group,
            M=keep.kept,
            **shape.constants(D),
            **shape.options(),
        )
        block = triton.next_power_of_2(n_kept)
        merge_kernel[(len(part),)](
            kept,
            rows.exact,
            operands.exact,
            operands.bias,
            operands.latents,
            rows.margin,
            rows.bad,
            latents,
            activations,
            bounds,
            failed,
            fallback,
            first,
            stride,
            D=D,
            K=k,
            KEPT=n_kept,
            G=keep.group,
            M=keep.kept,
            CANDIDATES=candidates,
            BLOCK=block,
            BLOCK_K=triton.next_power_of_2(k),
            BLOCK_GROUPS=triton.next_power_of_2(n_kept // keep.kept),
            OF_MAXIMA=n_kept // keep.kept >= 4 * k,
            num_warps=min(max(block // 1_024, candidates // 64, 1), 8),
        )
    return TopK(
        latents=latents,
        activations=activations,
        bad=rows.bad,
        failed=failed,
        bounds=bounds,
        fallback=fallback,
        rows=rows,
        operands=operands,
    )


_LEAST_TOKENS = 128
_MOST_TOKENS = 1 << 17


def _tokens_at_once(
    n: int, stride: int, tile: int, device: torch.device, memory: int | None
) -> int:
    """Tokens of a launch: what fits, in whole tiles."""
    if memory is None:
        memory = torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else 1 << 28
    fitting = memory // (stride * 4) // tile * tile
    return max(min(n, fitting, _MOST_TOKENS), min(n, _LEAST_TOKENS))


def _room(step: int, stride: int, device: torch.device) -> torch.Tensor:
    """Memory for the kept values of `step` tokens, or of half as many, down to 128."""
    while True:
        try:
            return torch.empty((step, stride), dtype=torch.int32, device=device)
        except torch.OutOfMemoryError:
            if step <= _LEAST_TOKENS:
                raise InputError(
                    f"no memory on {device} for the {stride * 4} bytes a token of {step} tokens: "
                    "free some, or encode on the CPU"
                ) from None
            step = max(step // 2, _LEAST_TOKENS)
