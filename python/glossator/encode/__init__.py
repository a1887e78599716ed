"""One way to encode, for every rule and device: the matrix product, and what is active of it.

    encoder = Encoder(weight, bias, TopK(32), dtype="bfloat16", device="cuda")
    active = encoder.encode(x)                   # of each token, its active latents
    latents, activations = active.rows()

The result is exact for operands rounded to `dtype`: it is that of `encode_plain`, up to float32's
error in what is called equal.
"""

from __future__ import annotations

import torch

from glossator.encode.active import Active
from glossator.encode.plain import encode_plain
from glossator.encode.rules import ActivationRule, Gated, GroupMax, Threshold, TopK
from glossator.errors import InputError

__all__ = [
    "DTYPES",
    "ActivationRule",
    "Active",
    "Encoder",
    "Gated",
    "GroupMax",
    "Threshold",
    "TopK",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What operands can be rounded to."""


class Encoder:
    """An encoder's weights on one device, prepared once for many batches."""

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        rule: ActivationRule,
        *,
        dtype: str = "float32",
        device: str | torch.device = "cpu",
    ) -> None:
        """Prepare.

        Args:
            weight: float32[L, d].
            bias: float32[L].
            rule: which pre-activations `x @ weight.T + bias` are active.
            dtype: what both operands of the product are rounded to: a key of `DTYPES`.
            device: where the rows will be.

        Raises:
            InputError: shapes disagree, or no such dtype.
        """
        if dtype not in DTYPES:
            raise InputError(f"dtype `{dtype}`: not one of {', '.join(map(repr, DTYPES))}")
        if bias.shape != weight.shape[:1]:
            raise InputError(
                f"bias has shape {list(bias.shape)}; the weight asks for [{len(weight)}]"
            )
        rule.check(len(weight))
        self.dtype, self.device, self.rule = dtype, torch.device(device), rule
        self._weight, self._bias = weight.to(self.device), bias.to(self.device)

    @torch.no_grad()
    def encode(self, x: torch.Tensor) -> Active:
        """The active latents of each row.

        Args:
            x: float[N, d], on the encoder's device.

        Raises:
            InputError: another width or device, or NaN or infinity in `x`; names the row.
        """
        if x.ndim != 2 or x.shape[1] != self._weight.shape[1]:
            raise InputError(
                f"x has shape {list(x.shape)}; the weight asks for [N, {self._weight.shape[1]}]"
            )
        if x.device.type != self.device.type:
            raise InputError(f"x is on {x.device}, the encoder on {self.device}")
        return encode_plain(x, self._weight, self._bias, self.rule, dtype=DTYPES[self.dtype])
