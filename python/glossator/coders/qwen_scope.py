"""Qwen Scope: one `layer{n}.sae.pt` for each layer's residual stream.

    coder = read(Path("SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer0.sae.pt"))

Tensors: `W_enc` [L, d], `W_dec` [d, L], `b_enc` [L], `b_dec` [d]. The k largest of a token, with
nothing taken off its input; k and the model stand only in the repository's name.
"""

from __future__ import annotations

import re
from pathlib import Path

from glossator.coders.files import Stored
from glossator.coders.record import SparseCoder
from glossator.encode import TopK
from glossator.errors import InputError

__all__ = ["read"]

_NAME = re.compile(r"SAE-Res-(?P<model>.+?)-W(?P<width>\d+)K-L0_(?P<k>\d+)")


def read(weights: Path, *, k: int | None = None) -> SparseCoder:
    """Read one coder.

    Args:
        weights: the file.
        k: needed where no folder above it is called as the repository is.

    Raises:
        InputError: k is not known, or a tensor missing, of a wrong shape or not finite.
    """
    stored = Stored.of(weights)
    named = _NAME.search(str(weights.absolute()))
    said = int(named["k"]) if named else k
    if said is None:
        raise InputError(
            f"coder `{weights}`: k is not in the file, and no folder is called `…-L0_50`; give `k`"
        )
    if k not in (None, said):
        raise InputError(f"coder `{weights}`: `L0_{said}`, and k = {k} was given; leave it out")
    bias, bias_out = stored.vector("b_enc"), stored.vector("b_dec")
    if named and len(bias) != int(named["width"]) * 1024:
        stored.warnings.append(
            f"the repository's name says {named['width']}K latents, the file has {len(bias):,}"
        )
    shape = (len(bias), len(bias_out))
    layer = re.search(r"layer(\d+)", weights.name)
    hook = f"blocks.{layer[1]}.hook_resid_post" if layer else None
    return SparseCoder(
        encoder_weight=stored.matrix("W_enc", shape, transposed=False),
        encoder_bias=bias,
        decoder=stored.matrix("W_dec", shape, transposed=True),
        decoder_bias=bias_out,
        rule=TopK(said),
        hookpoint=hook,
        hookpoint_out=hook,
        source=f"Qwen Scope `{weights}`",
        declared={
            "format": "Qwen Scope",
            "architecture": "topk",
            **({"model_name": f"Qwen/{named['model']}"} if named else {}),
            "l0": said,
            "warnings": stored.leftover(),
        },
    )
