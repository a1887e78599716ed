"""What some coders do to each row before they encode it, and undo after they decode.

given, undo = normalized(x, "layer_norm")
y = restored(decoded, undo)
"""

from __future__ import annotations

import torch

__all__ = ["NORMALIZATIONS", "normalized", "restored"]

NORMALIZATIONS = ("none", "layer_norm", "unit_norm")
"""`layer_norm`: the mean off, divided by the (unbiased) standard deviation plus 1e-5. `unit_norm`:
scaled to a norm of √d."""

_EPSILON = 1e-5


def normalized(
    x: torch.Tensor, normalization: str
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
    """Rows as the encoder reads them, and what takes them back.

    Args:
        x: float32[N, d].
        normalization: one of `NORMALIZATIONS`.

    Returns:
        float32[N, d], and factor and offset [N, 1] for `restored`; None where nothing was done.
    """
    if normalization == "layer_norm":
        mean = x.mean(1, keepdim=True)
        deviation = x.std(1, keepdim=True)
        return (x - mean) / (deviation + _EPSILON), (deviation, mean)
    if normalization == "unit_norm":
        factor = x.shape[1] ** 0.5 / x.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return x * factor, (1.0 / factor, torch.zeros_like(factor))
    return x, None


def restored(y: torch.Tensor, undo: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
    """Decoded rows on the scale of what was given."""
    return y if undo is None else y * undo[0] + undo[1]
