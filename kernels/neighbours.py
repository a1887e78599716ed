"""Which decoder rows point where another one points: the top-K kernel over rows of unit length.

    ids, cosines = nearest(decoder, k=10)        # int64[L, k], float64[L, k], descending

The same as `glossator.neighbours` gives: float64 cosines decide, ties go to the smaller id.
"""

from __future__ import annotations

import torch

from glossator._kernels.operands import Operands
from glossator._kernels.topk_encode import topk_encode
from glossator.errors import InputError

__all__ = ["nearest"]

_SPARE = 8
"""Asked beyond k + 1, so that float64 has something to choose from."""
_FLOAT32_ERROR = 2.0**-18
"""Of a float32 cosine raised by one, rows rounded to float32 included."""
_TOKENS = 1 << 14


def nearest(decoder: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k rows with the largest cosine to each row, itself left out.

    Args:
        decoder: float[L, d], without rows of zeros; rows need no norm of their own.
        k: at most L - 1.

    Returns:
        ids int64[L, k] and cosines float64[L, k], on the decoder's device.

    Raises:
        InputError: `k` is out of range, or a row of the decoder is zero or not finite.
    """
    L = len(decoder)
    if not 1 <= k < L:
        raise InputError(f"k = {k}: not between 1 and the number of other latents, {L - 1}")
    exact = _unit(decoder.detach().double())
    asked = min(k + 1 + _SPARE, L)
    # Raised by one a cosine is not negative, and none is dropped.
    operands = Operands.of(exact.float(), torch.ones(L, device=decoder.device))
    ids = torch.empty((L, k), dtype=torch.int64, device=decoder.device)
    cosines = torch.empty((L, k), dtype=torch.float64, device=decoder.device)
    for begin in range(0, L, _TOKENS):
        end = min(begin + _TOKENS, L)
        found = topk_encode(exact[begin:end].float(), operands, asked).settle()
        there = found.latents >= 0
        near = found.latents.long().clamp(min=0)
        least = torch.where(there.all(1), found.activations[:, -1].double() - 1, -torch.inf)
        if asked == L:
            least.fill_(-torch.inf)
        for row in range(begin, end, 1_024):
            part = slice(row - begin, min(row + 1_024, end) - begin)
            mine = torch.arange(row, min(row + 1_024, end), device=decoder.device)
            value = torch.einsum("nd,ncd->nc", exact[mine], exact[near[part]])
            value = value.masked_fill(~there[part] | (near[part] == mine[:, None]), -torch.inf)
            value, place = _ranked(value, near[part], k)
            # What was not asked for lies below the last that was, but for float32's error.
            open_ = ~(value[:, -1] > least[part] + _FLOAT32_ERROR)
            ids[mine], cosines[mine] = place, value
            if bool(open_.any()):
                rows = mine[open_]
                value = exact[rows] @ exact.T
                value[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
                every = torch.arange(L, device=rows.device).expand_as(value)
                cosines[rows], ids[rows] = _ranked(value, every, k)
    return ids, cosines


def _unit(rows: torch.Tensor) -> torch.Tensor:
    largest = rows.abs().amax(1, keepdim=True)
    if not bool(torch.isfinite(largest).all()):
        raise InputError("the decoder holds NaN or infinity")
    if len(zeros := (largest[:, 0] == 0).nonzero()):
        raise InputError(f"row {int(zeros[0, 0])} of the decoder is zero: it has no neighbours")
    rows = rows / largest.clamp(min=torch.finfo(torch.float64).tiny)
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def _ranked(value: torch.Tensor, ids: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row with their ids, ties by the smaller id."""
    order = ids.sort(dim=1, stable=True).indices
    value, ids = value.gather(1, order), ids.gather(1, order)
    value, order = value.sort(dim=1, descending=True, stable=True)
    return value[:, :k], ids.gather(1, order[:, :k])
