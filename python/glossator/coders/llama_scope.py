"""Llama Scope (OpenMOSS) in its three layouts, and what its library writes today.

    coder = read(Path("Llama3_1-8B-Base-L15R-8x/checkpoints/final.safetensors"))
    coder = read(Path("L15R/sae_weights.safetensors"))

| layout | settings | tensors |
|---|---|---|
| 2024 | `hyperparams.json` | `encoder.weight` [L, d], `encoder.bias`, `decoder.weight` [d, L], \
`decoder.bias` |
| R1-Distill | `config.json` | the same, with `log_jumprelu_threshold` [L] |
| Llamascopium | `config.json` | `W_E` [d, L], `b_E`, `W_D` [L, d], `b_D`, \
`activation_function.log_jumprelu_threshold` |

With `norm_activation` = `dataset-wise` the input is multiplied by √d over the mean norm of the
data, and the output divided by the same of its own. With `sparsity_include_decoder_norm` a latent
is compared, and ranked, by its pre-activation times the norm of its decoder row.

The one `jump_relu_threshold` of 2024 is compared with pre-activations of weights that its library
(github.com/OpenMOSS/Language-Model-SAEs, `src/lm_saes/sae.py` at 4ec6f0aa, October 2024) has first
changed, in this order: the norms of the data are folded in, so that `encoder.bias` is divided by
f = √d / norm of the input and `decoder.weight` multiplied by f over that of the output, g; then,
with `sparsity_include_decoder_norm`, decoder rows are made of norm 1 and the encoder multiplied by
what they had. Those pre-activations are ours over f, times the row's norm · f / g: a latent is
active where `pre · norm / g` is above the threshold; where decoder rows stay as stored, `pre / f`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from glossator.coders.files import Stored, flag, settings, word
from glossator.coders.record import SparseCoder
from glossator.encode import ActivationRule, Threshold, TopK
from glossator.errors import InputError

__all__ = ["read"]

_NORM = "dataset_average_activation_norm"


def read(weights: Path, *, k: int | None = None) -> SparseCoder:
    """Read one coder.

    Args:
        weights: the file of weights; the settings stand beside it, or one folder above.
        k: refused: the settings name it.

    Raises:
        InputError: a rule, a normalization or an encoder that no record says, or a tensor missing,
            of a wrong shape or not finite; names the file and the field.
    """
    path = _settings_of(weights)
    config = settings(path)
    stored = Stored.of(weights)
    bare = "W_E" in stored
    names = (
        ("W_E", "b_E", "W_D", "b_D")
        if bare
        else ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
    )
    if config.get("use_glu_encoder") or config.get("sae_type", "sae") != "sae":
        field = "use_glu_encoder" if config.get("use_glu_encoder") else "sae_type"
        raise InputError(
            f"coder `{path}`: `{field}` = `{config[field]}` is not read; one linear encoder is"
        )
    bias = stored.vector(names[1])
    width = config.get("d_model")
    if names[3] in stored:
        bias_out = stored.vector(names[3], width)
    elif not flag(path, config, "use_decoder_bias", True) and isinstance(width, int):
        bias_out = torch.zeros(width)
    else:
        bias_out = stored.vector(names[3])
    shape = (len(bias), len(bias_out))
    encoder = stored.matrix(names[0], shape, transposed=bare)
    decoder = stored.matrix(names[2], shape, transposed=not bare)
    hook_in = word(config, "hook_point_in")
    hook_out = word(config, "hook_point_out") or hook_in
    normalization, scale_in, scale_out = _scales(
        path, config, stored, hook_in, hook_out, len(bias_out)
    )
    norms, scale = decoder.norm(dim=1), scale_out
    if not flag(path, config, "sparsity_include_decoder_norm", True):
        norms, scale = torch.ones_like(norms), scale_in
    rule = _rule(path, config, stored, norms, scale, k)
    decoder_scale = None
    if isinstance(rule, TopK) and bool((norms != 1).any()):
        # Latents are ranked by pre-activation times norm: fold the norms in.
        encoder, bias, decoder_scale = encoder * norms[:, None], bias * norms, 1.0 / norms
    centred = flag(path, config, "apply_decoder_bias_to_pre_encoder", False)
    return SparseCoder(
        encoder_weight=encoder,
        encoder_bias=bias,
        decoder=decoder,
        decoder_bias=bias_out,
        rule=rule,
        input_bias=bias_out if centred else None,
        normalization=normalization,
        input_scale=scale_in,
        output_scale=1.0 / scale_out,
        decoder_scale=decoder_scale,
        hookpoint=hook_in,
        hookpoint_out=hook_out,
        source=f"Llama Scope `{weights}`",
        declared={
            "format": "Llama Scope",
            "architecture": str(config.get("act_fn", "jumprelu")),
            **({"l0": config["top_k"]} if isinstance(config.get("top_k"), int) else {}),
            **({"model_name": config["model_name"]} if config.get("model_name") else {}),
            "warnings": stored.leftover(
                *(name for name in stored.tensors if name.startswith(_NORM))
            ),
        },
    )


def _settings_of(weights: Path) -> Path:
    for folder in (weights.parent, weights.parent.parent):
        for name in ("config.json", "hyperparams.json"):
            if (folder / name).is_file():
                return folder / name
    raise InputError(f"coder `{weights}`: neither config.json nor hyperparams.json beside it")


def _scales(
    path: Path,
    config: dict[str, Any],
    stored: Stored,
    hook_in: str | None,
    hook_out: str | None,
    width: int,
) -> tuple[str, float, float]:
    """The record's normalization, and the factors on the scale of what is read and written."""
    said = config.get("norm_activation", "inference")
    if said in ("inference", "none", None):
        return "none", 1.0, 1.0
    if said == "token-wise":
        return "unit_norm", 1.0, 1.0
    if said != "dataset-wise":
        raise InputError(
            f"coder `{path}`: `norm_activation` = `{said}` depends on the batch and is not read"
        )
    factors = []
    for side, hook in (("in", hook_in), ("out", hook_out)):
        norms = config.get(_NORM) or {}
        norm = norms.get(side, norms.get(hook))
        if norm is None and f"{_NORM}.{hook}" in stored:
            norm = float(stored.any(f"{_NORM}.{hook}"))
        if not isinstance(norm, int | float) or not 0 < norm < float("inf"):
            raise InputError(
                f"coder `{path}`: `{_NORM}` has no positive norm for `{hook}` ({side}), which "
                "`norm_activation` = `dataset-wise` needs"
            )
        factors.append(width**0.5 / float(norm))
    return "none", factors[0], factors[1]


def _rule(
    path: Path,
    config: dict[str, Any],
    stored: Stored,
    norms: torch.Tensor,
    scale: float,
    k: int | None,
) -> ActivationRule:
    said = str(config.get("act_fn", "jumprelu")).lower()
    single = config.get("jump_relu_threshold")
    if k is not None:
        raise InputError(f"coder `{path}`: `top_k` and `act_fn` say it; leave `k` out")
    logs = ("log_jumprelu_threshold", "activation_function.log_jumprelu_threshold")
    found = next((name for name in logs if name in stored), None)
    if found is not None and said == "jumprelu":
        return Threshold(stored.vector(found, len(norms)).exp() / norms)
    if isinstance(single, int | float) and (said == "jumprelu" or (said == "topk" and single > 0)):
        values = max(float(single), 0.0) * scale / norms.double()
        return Threshold(values.float())
    if said == "relu":
        return Threshold(torch.zeros_like(norms))
    if said == "topk" and isinstance(config.get("top_k"), int):
        return TopK(config["top_k"])
    missing = "`top_k`" if said == "topk" else "a threshold"
    raise InputError(
        f"coder `{path}`: `act_fn` = `{said}` without {missing} is not read; relu, jumprelu and "
        "topk are (a batch-wise rule is converted to jumprelu by its own library)"
    )
