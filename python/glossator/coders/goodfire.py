"""Goodfire's autoencoders of Llama: one `…-SAE-l{layer}.pt` or `.pth`.

    coder = read(Path("Llama-3.1-8B-Instruct-SAE-l19.pth"))

Tensors: `encoder_linear.weight` [L, d], `encoder_linear.bias` [L], `decoder_linear.weight` [d, L],
`decoder_linear.bias` [d]. ReLU of the input as it is.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from glossator.coders.files import Stored
from glossator.coders.record import SparseCoder
from glossator.encode import Threshold
from glossator.errors import InputError

__all__ = ["read"]


def read(weights: Path, *, k: int | None = None) -> SparseCoder:
    """Read one coder.

    Raises:
        InputError: `k` was given, or a tensor is missing, of a wrong shape or not finite.
    """
    if k is not None:
        raise InputError(f"coder `{weights}`: a ReLU coder has no k; leave `k` out")
    stored = Stored.of(weights)
    bias = stored.vector("encoder_linear.bias")
    bias_out = stored.vector("decoder_linear.bias")
    shape = (len(bias), len(bias_out))
    named = re.fullmatch(r"(?P<model>.+)-SAE-l(?P<layer>\d+)", weights.stem)
    hook = f"blocks.{named['layer']}.hook_resid_post" if named else None
    return SparseCoder(
        encoder_weight=stored.matrix("encoder_linear.weight", shape, transposed=False),
        encoder_bias=bias,
        decoder=stored.matrix("decoder_linear.weight", shape, transposed=True),
        decoder_bias=bias_out,
        rule=Threshold(torch.zeros(len(bias))),
        hookpoint=hook,
        hookpoint_out=hook,
        source=f"Goodfire `{weights}`",
        declared={
            "format": "Goodfire",
            "architecture": "standard",
            **({"model_name": f"meta-llama/{named['model']}"} if named else {}),
            "warnings": stored.leftover(),
        },
    )
