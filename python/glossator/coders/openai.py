"""OpenAI's autoencoders of GPT-2 small (v1 to v5): one `{layer}.pt` each.

    coder = read(Path("resid_post_mlp_v5_32k/autoencoders/8.pt"))

Tensors: `pre_bias` [d], `encoder.weight` [L, d], `latent_bias` [L], `decoder.weight` [d, L], and
statistics; `activation` names the rule. With `TopK` the input is layer-normed first and the output
taken back; with `ReLU` it is not. A tied coder has `decoder.linear.weight`, its encoder again
(github.com/openai/sparse_autoencoder, `model.py`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from glossator.coders.files import Stored, contents
from glossator.coders.record import SparseCoder
from glossator.encode import ActivationRule, Threshold, TopK
from glossator.errors import InputError

__all__ = ["read"]

_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
# Where on each block the files of a folder were trained.
_SITES = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_attn": "hook_attn_out",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_post_mlp": "hook_resid_post",
}


def read(weights: Path, *, k: int | None = None) -> SparseCoder:
    """Read one coder.

    Args:
        weights: the file.
        k: refused where the file names another.

    Raises:
        InputError: an activation that is not known, or a tensor missing, of a wrong shape or not
            finite; names the file and the field.
    """
    held = contents(weights)
    tensors = {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}
    stored = Stored(weights, tensors)
    pre_bias, bias = stored.vector("pre_bias"), stored.vector("latent_bias")
    shape = (len(bias), len(pre_bias))
    rule = _rule(weights, held, len(bias), k)
    hook = _hookpoint(weights)
    if hook is None:
        stored.warnings.append("the folder's name does not say where on the model it reads")
    encoder = stored.matrix("encoder.weight", shape, transposed=False)
    tied = "decoder.linear.weight" in stored
    if tied and not torch.equal(
        stored.matrix("decoder.linear.weight", shape, transposed=False), encoder
    ):
        raise InputError(
            f"coder `{weights}`: `decoder.linear.weight` is not `encoder.weight`, which it repeats "
            "in a tied coder"
        )
    return SparseCoder(
        encoder_weight=encoder,
        encoder_bias=bias,
        decoder=encoder if tied else stored.matrix("decoder.weight", shape, transposed=True),
        decoder_bias=pre_bias,
        rule=rule,
        input_bias=pre_bias,
        normalization="layer_norm" if isinstance(rule, TopK) else "none",
        hookpoint=hook,
        hookpoint_out=hook,
        source=f"OpenAI `{weights}`",
        declared={
            "format": "OpenAI",
            "architecture": str(held.get("activation", "ReLU")),
            "model_name": "gpt2",
            "warnings": stored.leftover(*_STATISTICS),
        },
    )


def _rule(path: Path, held: dict[str, Any], n_latents: int, k: int | None) -> ActivationRule:
    name = held.get("activation", "ReLU")
    given = held.get("activation_state_dict") or {}
    if name == "ReLU":
        return Threshold(torch.zeros(n_latents))
    if name != "TopK" or not isinstance(given, dict):
        raise InputError(f"coder `{path}`: `activation` = `{name}` is not read; TopK and ReLU are")
    if given.get("postact_fn", "ReLU") != "ReLU":
        raise InputError(
            f"coder `{path}`: `postact_fn` = `{given['postact_fn']}` gives signed activations, "
            "which are not read; `ReLU` is"
        )
    said = given.get("k", k)
    if said is None:
        raise InputError(f"coder `{path}`: `activation_state_dict.k` is missing; give `k`")
    if k not in (None, int(said)):
        raise InputError(f"coder `{path}`: `k` = {int(said)}, and {k} was given; leave it out")
    return TopK(int(said))


def _hookpoint(path: Path) -> str | None:
    site = next((_SITES[s] for s in _SITES if re.search(rf"{s}(_v\d+)?", str(path))), None)
    return f"blocks.{path.stem}.{site}" if site and path.stem.isdigit() else None
