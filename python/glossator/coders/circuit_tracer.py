"""circuit-tracer: sets of transcoders, one a layer, and cross-layer transcoders.

    coder = read(Path("transcoders/layer_3.safetensors"))
    coder = read(Path("clt/W_enc_3.safetensors"))         # decoders in W_dec_3.safetensors

A transcoder's file holds `W_enc` [L, d], `W_dec` [L, d_out], `b_enc`, `b_dec`, and may hold
`W_skip` [d_out, d] and `activation_function.threshold` [L]; `config.yaml` beside it names the
hooks and, for `activation: topk`, k. The input is read as it is.

A cross-layer transcoder's layer i has `W_enc_i` [L, d], `b_enc_i`, `b_dec_i` and may have
`threshold_i`; `W_dec_i` [L, layers − i, d_out] has a decoder for layer i and each after it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from glossator.coders import gemma_scope
from glossator.coders.files import Stored, names_in, settings
from glossator.coders.record import SparseCoder
from glossator.encode import ActivationRule, Threshold, TopK
from glossator.errors import InputError

__all__ = ["listed", "read"]

_THRESHOLDS = ("activation_function.threshold", "threshold")


def listed(folder: Path) -> dict[str, str]:
    """Files that `config.yaml` of a set names, by layer: paths, or `hf://owner/name/file`."""
    path = folder / "config.yaml"
    if not path.is_file():
        return {}
    files = settings(path).get("transcoders")
    if not isinstance(files, list):
        return {}
    named = {}
    for layer, entry in enumerate(files):
        said = entry.get("filepath") if isinstance(entry, dict) else entry
        layer = entry.get("layer", layer) if isinstance(entry, dict) else layer
        if not isinstance(said, str):
            raise InputError(f"coder `{path}`: `transcoders` holds an entry that names no file")
        named[f"layer_{layer}"] = said if said.startswith("hf://") else str(folder / said)
    return named


def read(weights: Path, *, k: int | None = None, config: Path | None = None) -> SparseCoder:
    """Read one layer's transcoder.

    Args:
        weights: `layer_{n}.safetensors`, or `W_enc_{n}.safetensors` of a cross-layer transcoder.
        k: for `activation: topk` without one.
        config: the set's `config.yaml`, where it stands elsewhere than beside the file.

    Raises:
        InputError: an activation that is not known, or a tensor missing, of a wrong shape or not
            finite; names the file and the field.
    """
    path = weights.with_name("config.yaml") if config is None else config
    said = settings(path) if path.is_file() else {}
    if weights.suffix == ".npz" or "w_enc" in names_in(weights):
        return gemma_scope.read(weights, k=k)
    crossing = re.fullmatch(r"W_enc_(\d+)", weights.stem)
    layer = re.search(r"(\d+)$", weights.stem)
    if crossing:
        return _cross_layer(weights, said, int(crossing[1]))
    stored = Stored.of(weights)
    bias, bias_out = stored.vector("b_enc"), stored.vector("b_dec")
    encoder_shape = stored.any("W_enc").shape
    skip = "W_skip" in stored
    width = len(bias_out)
    if skip and len(encoder_shape) == 2 and encoder_shape[0] == len(bias):
        width = encoder_shape[1]
    rule = _rule(path, said, stored, len(bias), k)
    hook_in, hook_out = _hooks(said, None if layer is None else int(layer[1]))
    if hook_in is None:
        stored.warnings.append("no `config.yaml`: where on the model it reads is not known")
    return SparseCoder(
        encoder_weight=stored.matrix("W_enc", (len(bias), width), transposed=False),
        encoder_bias=bias,
        decoder=stored.matrix("W_dec", (len(bias), len(bias_out)), transposed=False),
        decoder_bias=bias_out,
        rule=rule,
        skip=stored.matrix("W_skip", (len(bias_out), width), transposed=False) if skip else None,
        hookpoint=hook_in,
        hookpoint_out=hook_out,
        source=f"circuit-tracer `{weights}`",
        declared=_declared(said, "transcoder", stored),
    )


def _cross_layer(weights: Path, said: dict[str, Any], layer: int) -> SparseCoder:
    stored = Stored.of(weights)
    outputs = Stored.of(weights.with_name(f"W_dec_{layer}.safetensors"))
    bias, bias_out = stored.vector(f"b_enc_{layer}"), stored.vector(f"b_dec_{layer}")
    decoder = outputs.any(f"W_dec_{layer}")
    if decoder.ndim != 3 or decoder.shape[::2] != (len(bias), len(bias_out)):
        raise InputError(
            f"coder `{outputs.path}`: tensor `W_dec_{layer}` has shape {list(decoder.shape)}, but "
            f"the biases ask for [{len(bias)}, layers, {len(bias_out)}]"
        )
    layers = len(list(weights.parent.glob("W_enc_*.safetensors")))
    if layer + decoder.shape[1] != layers:
        stored.warnings.append(
            f"`W_dec_{layer}` writes to {decoder.shape[1]} layers, but {layers} encoders stand here"
        )
    stored.warnings.append(
        "a cross-layer transcoder: what other layers write to the same output is not in this file"
    )
    hook_in, _ = _hooks(said, layer)
    targets = [
        _hooks(said, layer + later)[1] or f"blocks.{layer + later}.hook_mlp_out"
        for later in range(decoder.shape[1])
    ]
    decoders = {name: decoder[:, at].contiguous() for at, name in enumerate(targets)}
    threshold = f"threshold_{layer}"
    return SparseCoder(
        encoder_weight=stored.matrix(
            f"W_enc_{layer}", (len(bias), len(bias_out)), transposed=False
        ),
        encoder_bias=bias,
        decoder=decoders[targets[0]],
        decoder_bias=bias_out,
        rule=Threshold(
            stored.threshold(threshold, len(bias))
            if threshold in stored
            else torch.zeros(len(bias))
        ),
        decoders=decoders,
        hookpoint=hook_in,
        hookpoint_out=targets[0],
        source=f"circuit-tracer `{weights}`",
        declared=_declared(said, "cross-layer transcoder", stored),
    )


def _hooks(said: dict[str, Any], layer: int | None) -> tuple[str | None, str | None]:
    """The names of where a layer reads and writes, as the set's settings have them."""
    hooks: list[str | None] = []
    for field in ("feature_input_hook", "feature_output_hook"):
        name = said.get(field)
        if not isinstance(name, str) or layer is None:
            hooks.append(None)
        elif "{layer}" in name:
            hooks.append(name.replace("{layer}", str(layer)))
        else:
            hooks.append(f"blocks.{layer}.{name}")
    return hooks[0], hooks[1]


def _rule(
    path: Path, said: dict[str, Any], stored: Stored, n_latents: int, k: int | None
) -> ActivationRule:
    activation = said.get("activation")
    if activation == "topk" or (activation is None and k is not None):
        number = said.get("k", k)
        if not isinstance(number, int):
            raise InputError(f"coder `{path}`: `activation: topk` without `k`; give `k`")
        if k not in (None, number):
            raise InputError(f"coder `{path}`: `k` = {number}, and {k} was given; leave it out")
        return TopK(number)
    if activation not in (None, "relu", "jump_relu", "jumprelu"):
        raise InputError(
            f"coder `{path}`: `activation` = `{activation}` is not known; relu, jump_relu and topk "
            "are"
        )
    if k is not None:
        raise InputError(f"coder `{path}`: `activation: {activation}` has no k; leave `k` out")
    found = next((name for name in _THRESHOLDS if name in stored), None)
    if found is None and activation in ("jump_relu", "jumprelu"):
        raise InputError(
            f"coder `{stored.path}`: tensor `{_THRESHOLDS[0]}` is missing, but `activation` of "
            f"{path.name} is `{activation}`"
        )
    if found is None or activation == "relu":
        return Threshold(torch.zeros(n_latents))
    return Threshold(stored.threshold(found, n_latents))


def _declared(said: dict[str, Any], architecture: str, stored: Stored) -> dict[str, Any]:
    return {
        "format": "circuit-tracer",
        "architecture": architecture,
        **{name: said[name] for name in ("model_name", "scan") if said.get(name)},
        "warnings": stored.leftover(),
    }
