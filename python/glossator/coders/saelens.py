"""SAELens, 6 and before: a folder with `cfg.json` and `sae_weights.safetensors`.

    coder = read(Path("blocks.5.hook_resid_post/sae_weights.safetensors"))

Tensors: `W_enc` [d, L], `W_dec` [L, d_out], `b_enc` [L], `b_dec` [d_out]; `threshold` [L] for
JumpReLU; `b_gate`, `b_mag`, `r_mag` [L] instead of `b_enc` where gated; `W_skip` [d_out, d] of a
transcoder with a skip connection. An autoencoder takes `b_dec` off its input where
`apply_b_dec_to_input`, a transcoder never. `sparsity.safetensors` has log10 of each density.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from glossator.coders.files import Stored, flag, settings, word
from glossator.coders.record import SparseCoder
from glossator.encode import ActivationRule, Gated, Threshold, TopK
from glossator.errors import InputError

__all__ = ["read"]

_SKIPS = ("skip_transcoder", "jumprelu_skip_transcoder")
_TRANSCODERS = ("transcoder", "jumprelu_transcoder", *_SKIPS)
_NORMALIZATIONS = {
    "none": "none",
    "expected_average_only_in": "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "unit_norm",
}
_REFUSED = {
    "abstopk": "its activations are signed",
    "matching_pursuit": "it encodes by a search, not by one product",
    "temporal": "a token's code depends on the tokens before it",
    "batchtopk": "this is a training checkpoint; save it with `save_inference_model`",
    "matryoshka_batchtopk": "this is a training checkpoint; save it with `save_inference_model`",
}
_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_DECLARED = ("model_name", "hook_name", "context_size", "prepend_bos", "neuronpedia_id")


def read(weights: Path, *, k: int | None = None) -> SparseCoder:
    """Read one coder.

    Args:
        weights: the file of weights; `cfg.json` stands beside it.
        k: for a coder that names none; refused where the file names another.

    Raises:
        InputError: an architecture that no rule of the record says, or a tensor missing, of a wrong
            shape or not finite; names the file and the field.
    """
    path = weights.with_name("cfg.json")
    config = _flat(settings(path))
    architecture = str(config.get("architecture", "standard"))
    stored = Stored.of(weights)
    width_out = len(stored.vector("b_dec"))
    gated = architecture == "gated"
    bias = stored.vector("b_gate" if gated else "b_enc")
    transcoder = architecture in _TRANSCODERS
    width = int(config.get("d_in", width_out)) if transcoder else width_out
    shape = (len(bias), width)
    encoder = stored.matrix("W_enc", shape, transposed=True)
    decoder = stored.matrix("W_dec", (len(bias), width_out), transposed=False)
    _check_sizes(path, config, encoder, decoder)
    normalization = _normalization(path, config, stored, transcoder=transcoder)
    rule = _rule(path, architecture, config, stored, len(bias), k)
    decoder_scale = None
    rescaled = flag(path, config, "rescale_acts_by_decoder_norm", False)
    if isinstance(rule, TopK) and rescaled:
        # The peer multiplies pre-activations by the norms before it selects: fold them in.
        norms = decoder.norm(dim=1)
        encoder, bias, decoder_scale = encoder * norms[:, None], bias * norms, 1.0 / norms
    finetuned = "finetuning_scaling_factor"
    for name in ("scaling_factor", finetuned):
        if name in stored and not bool((stored.any(name) == 1).all()):
            stored.warnings.append(
                f"activations are multiplied by `{name}` before they are decoded"
            )
            decoder_scale = stored.vector(name, len(bias))
    hook = word(config, "hook_name")
    centred = flag(path, config, "apply_b_dec_to_input", True) and not transcoder
    return SparseCoder(
        encoder_weight=encoder,
        encoder_bias=bias,
        decoder=decoder,
        decoder_bias=stored.vector("b_dec"),
        rule=rule,
        input_bias=stored.vector("b_dec") if centred else None,
        normalization=normalization,
        decoder_scale=decoder_scale,
        skip=stored.matrix("W_skip", (width_out, width), transposed=False)
        if architecture in _SKIPS
        else None,
        hookpoint=hook,
        hookpoint_out=word(config, "hook_name_out") if transcoder else hook,
        source=f"SAELens `{weights.parent}`",
        declared={
            "format": "SAELens",
            "architecture": architecture,
            **{name: config[name] for name in _DECLARED if config.get(name) is not None},
            **({"dataset": config["dataset_path"]} if config.get("dataset_path") else {}),
            **_density(weights.with_name("sparsity.safetensors"), len(bias)),
            "warnings": stored.leftover("scaling_factor", finetuned),
        },
    )


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of every version in one mapping, under the names of version 6."""
    metadata = config.get("metadata")
    flat = {**config, **(metadata if isinstance(metadata, dict) else {})}
    flat = {_RENAMED.get(name, name): value for name, value in flat.items()}
    given = flat.get("activation_fn_kwargs")
    if flat.get("activation_fn") == "topk" and isinstance(given, dict):
        flat |= {"architecture": "topk", "k": given.get("k")}
    if isinstance(flat.get("normalize_activations"), bool):
        flat["normalize_activations"] = (
            "expected_average_only_in" if flat["normalize_activations"] else "none"
        )
    return flat


def _check_sizes(
    path: Path, config: dict[str, Any], encoder: torch.Tensor, decoder: torch.Tensor
) -> None:
    found = {"d_in": encoder.shape[1], "d_sae": len(encoder), "d_out": decoder.shape[1]}
    for name, size in found.items():
        if config.get(name) not in (None, size):
            raise InputError(
                f"coder `{path}`: `{name}` = {config[name]}, but the weights say {size}"
            )


def _normalization(path: Path, config: dict[str, Any], stored: Stored, *, transcoder: bool) -> str:
    said = config.get("normalize_activations") or "none"
    if said not in _NORMALIZATIONS:
        raise InputError(
            f"coder `{path}`: `normalize_activations` = `{said}` is not read; fold it into the "
            "weights"
        )
    if transcoder and _NORMALIZATIONS[said] != "none":
        raise InputError(
            f"coder `{path}`: a transcoder with `normalize_activations` = `{said}` is not read"
        )
    if said == "expected_average_only_in":
        stored.warnings.append(
            "`normalize_activations` = `expected_average_only_in`: the factor is not in the files; "
            "taken as folded into the weights"
        )
    return _NORMALIZATIONS[said]


def _rule(
    path: Path,
    architecture: str,
    config: dict[str, Any],
    stored: Stored,
    n_latents: int,
    k: int | None,
) -> ActivationRule:
    if architecture in _REFUSED:
        raise InputError(
            f"coder `{path}`: `architecture` = `{architecture}` cannot be read: "
            f"{_REFUSED[architecture]}"
        )
    if config.get("activation_fn") not in (None, "relu", "topk"):
        raise InputError(
            f"coder `{path}`: `activation_fn` = `{config['activation_fn']}` is not read; `relu` "
            "and `topk` are"
        )
    if architecture == "topk":
        said = config.get("k", k)
        if not isinstance(said, int) or isinstance(said, bool):
            raise InputError(f"coder `{path}`: field `k` is missing or no whole number; give `k`")
        if k not in (None, said):
            raise InputError(f"coder `{path}`: `k` = {said}, and {k} was given; leave it out")
        return TopK(said)
    if k is not None:
        raise InputError(f"coder `{path}`: `{architecture}` has no k; leave `k` out")
    if architecture == "gated":
        scale = stored.vector("r_mag", n_latents).exp()
        return Gated(scale, stored.vector("b_mag", n_latents))
    if architecture.startswith("jumprelu"):
        return Threshold(stored.threshold("threshold", n_latents))
    if architecture in ("standard", "transcoder", "skip_transcoder"):
        return Threshold(torch.zeros(n_latents))
    raise InputError(
        f"coder `{path}`: `architecture` = `{architecture}` is not known; standard, gated, "
        "jumprelu, topk and their transcoders are"
    )


def _density(path: Path, n_latents: int) -> dict[str, float]:
    """Mean density and L0 from log10 of each latent's, where the file stands there."""
    if not path.is_file():
        return {}
    density = (10.0 ** Stored.of(path).vector("sparsity", n_latents).double()).clamp(max=1.0)
    return {"density": float(density.mean()), "l0": float(density.sum())}
