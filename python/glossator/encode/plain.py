"""Every rule in plain torch: what the faster ways are compared with, and what any device can do.

active = encode_plain(x, weight, bias, Threshold(thresholds))
"""

from __future__ import annotations

import torch

from glossator._kernels.reference import pre_activations, topk_encode
from glossator.encode.active import Active
from glossator.encode.rules import ActivationRule, Gated, GroupMax, TopK

__all__ = ["encode_plain"]


def encode_plain(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    rule: ActivationRule,
    *,
    dtype: torch.dtype = torch.float32,
) -> Active:
    """The active latents of each row of `x`.

    Args:
        x: float[N, d].
        weight: float[L, d].
        bias: float[L].
        rule: which pre-activations are active.
        dtype: what `x` and `weight` are rounded to; products and sums are float32.

    Raises:
        InputError: `x` holds NaN or infinity; names the row.
    """
    if isinstance(rule, TopK):
        values, ids = topk_encode(x, weight, bias, rule.k, dtype=dtype)
        return Active.of_rows(ids, values)
    parts = [
        _of_group_max(scores, rule.k)
        if isinstance(rule, GroupMax)
        else _above(scores, bias.float(), rule)
        for scores in pre_activations(x, weight, bias, dtype)
    ]
    counts = torch.cat([part.starts.diff() for part in parts]) if parts else x.new_zeros(0).long()
    starts = torch.zeros(len(counts) + 1, dtype=torch.int64, device=x.device)
    torch.cumsum(counts, 0, out=starts[1:])
    if not parts:
        return Active(starts, counts, x.new_zeros(0).float())
    return Active(
        starts,
        torch.cat([part.latents for part in parts]),
        torch.cat([part.activations for part in parts]),
    )


def _of_group_max(scores: torch.Tensor, k: int) -> Active:
    width = scores.shape[1] // k
    values, places = scores.view(len(scores), k, width).max(2)
    ids = places + torch.arange(0, scores.shape[1], width, device=scores.device)
    values, order = values.clamp(min=0).sort(dim=1, descending=True, stable=True)
    return Active.of_rows(ids.gather(1, order), values)


def _above(scores: torch.Tensor, bias: torch.Tensor, rule: ActivationRule) -> Active:
    if isinstance(rule, Gated):
        open_ = scores > 0
        scores = (scores - bias) * rule.scale.to(scores.device) + rule.bias.to(scores.device)
    else:
        assert not isinstance(rule, TopK | GroupMax)
        open_ = scores > rule.values.to(scores.device)
    live = open_ & (scores > 0)
    counts = live.sum(1)
    starts = torch.zeros(len(counts) + 1, dtype=torch.int64, device=scores.device)
    torch.cumsum(counts, 0, out=starts[1:])
    _, latents = live.nonzero(as_tuple=True)
    values = scores[live]
    return Active(starts, latents, values).ordered()
