"""One way to encode, for every rule and device: the matrix product, and what is active of it.

    encoder = Encoder(weight, bias, TopK(32), dtype="bfloat16", device="cuda")
    active = encoder.encode(x)                   # of each token, its active latents
    latents, activations = active.rows()

The result is exact for operands rounded to `dtype`: it is that of `encode_plain`, up to float32's
error in what is called equal.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch

from glossator._kernels.reference import DTYPES
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
    "uses_triton",
]

KERNELS = ("auto", "triton", "reference")
"""What `GLOSSATOR_KERNELS` may be: `auto` takes Triton on a GPU and the Rust core on a CPU."""


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
        self._width = weight.shape[1]
        self._begin = _way(weight, bias, rule, dtype, self.device)

    @torch.no_grad()
    def begin(self, x: torch.Tensor) -> Callable[[], Active]:
        """Start on some rows, on a GPU without waiting for it; what is returned gives the result.

        Args:
            x: float[N, d], on the encoder's device.

        Raises:
            InputError: another width or device; here or when the result is asked for, NaN or
                infinity in `x`, which names the row.
        """
        if x.ndim != 2 or x.shape[1] != self._width:
            raise InputError(f"x has shape {list(x.shape)}; the weight asks for [N, {self._width}]")
        if x.device.type != self.device.type:
            raise InputError(f"x is on {x.device}, the encoder on {self.device}")
        return self._begin(x)

    def encode(self, x: torch.Tensor) -> Active:
        """The active latents of each row.

        Args:
            x: float[N, d], on the encoder's device.

        Raises:
            InputError: another width or device, or NaN or infinity in `x`; names the row.
        """
        return self.begin(x)()


def uses_triton(device: torch.device) -> bool:
    """Whether Triton's kernels work on a device's tensors: on a GPU, or where they are asked for.

    Raises:
        InputError: they are asked for and not installed, or `GLOSSATOR_KERNELS` is none of
            `KERNELS`.
    """
    kernels = _kernels()
    has_triton = find_spec("triton") is not None
    if kernels == "triton" and not has_triton:
        raise InputError("GLOSSATOR_KERNELS is `triton`, which is not installed")
    return kernels == "triton" or (kernels == "auto" and device.type == "cuda" and has_triton)


def _kernels() -> str:
    kernels = os.environ.get("GLOSSATOR_KERNELS", "auto")
    if kernels not in KERNELS:
        raise InputError(f"GLOSSATOR_KERNELS is `{kernels}`: not one of {', '.join(KERNELS)}")
    return kernels


def _way(
    weight: torch.Tensor,
    bias: torch.Tensor,
    rule: ActivationRule,
    dtype: str,
    device: torch.device,
) -> Callable[[torch.Tensor], Callable[[], Active]]:
    """How rows are encoded on this device."""
    plain = _kernels() == "reference" or isinstance(rule, GroupMax)
    if not plain and uses_triton(device):
        from glossator.encode.gpu import GpuEncoder

        return GpuEncoder(weight, bias, rule, dtype=DTYPES[dtype], device=device).begin
    if not plain and device.type == "cpu":
        from glossator.encode.cpu import CpuEncoder

        on_cpu = CpuEncoder(weight, bias, rule, dtype=dtype)
        return lambda x: partial(_same, on_cpu.encode(x))
    held = weight.to(device), bias.to(device)
    return lambda x: partial(_same, encode_plain(x, *held, rule, dtype=DTYPES[dtype]))


def _same(active: Active) -> Active:
    return active
