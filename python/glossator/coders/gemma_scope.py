"""Gemma Scope 1 (`params.npz`) and 2 (`params.safetensors`), with its cross-layer transcoders.

    coder = read(Path("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71/params.npz"))
    coder = read(Path("resid_post/layer_22_width_65k_l0_medium/params.safetensors"))

Tensors, in lower case in 2: `W_enc` [d, L], `W_dec` [L, d_out], `b_enc` [L], `b_dec` [d_out],
`threshold` [L], `affine_skip_connection` [d, d_out]. JumpReLU of the input as it is. Where on the
model it reads stands in the folder's name (1) or `config.json` (2). A cross-layer transcoder has
`w_dec` [L, layers, d_out], of which a layer writes to itself and those after it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from glossator.coders.files import Stored, settings
from glossator.coders.record import SparseCoder
from glossator.encode import Threshold
from glossator.errors import InputError

__all__ = ["read"]

_REPOSITORY = re.compile(
    r"gemma-scope-(?P<size>\d+b)-(?P<kind>pt|it)-(?P<site>res|mlp|att|transcoders)"
)
_SITES_1 = {
    "res": ("layers.{n}", "blocks.{n}.hook_resid_post"),
    "mlp": ("layers.{n}.post_feedforward_layernorm", "blocks.{n}.hook_mlp_out"),
    "att": ("layers.{n}.self_attn.o_proj:in", "blocks.{n}.attn.hook_z"),
    "transcoders": ("blocks.{n}.ln2.hook_normalized", "blocks.{n}.ln2.hook_normalized"),
}
_MLP_IN = "layers.{n}.pre_feedforward_layernorm"
_MLP_OUT = "layers.{n}.post_feedforward_layernorm"
# How many latents are active, as the folders of Gemma Scope 2 say it.
_L0 = {"small": (10, 20), "medium": (30, 60), "big": (90, 150)}
_SKIP = "affine_skip_connection"


def read(weights: Path, *, k: int | None = None) -> SparseCoder:
    """Read one coder.

    Raises:
        InputError: `k` was given, another architecture, or a tensor missing, of a wrong shape or
            not finite; names the file and the field.
    """
    if k is not None:
        raise InputError(f"coder `{weights}`: a JumpReLU coder has no k; leave `k` out")
    stored = Stored.of(weights)
    stored.tensors = {
        f"W_{name[2:]}" if name.startswith("w_") else name: tensor
        for name, tensor in stored.tensors.items()
    }
    bias, bias_out = stored.vector("b_enc"), stored.vector("b_dec")
    encoder_shape = stored.any("W_enc").shape
    width = encoder_shape[0] if len(encoder_shape) == 2 else len(bias_out)
    if _SKIP not in stored and not _transcodes(weights):
        width = len(bias_out)
    site = _site(weights, stored)
    decoders = _decoders(weights, stored, len(bias), len(bias_out), site)
    embedding = site.pop("embedding", False)
    scale = float(width) ** 0.5 if embedding else 1.0
    return SparseCoder(
        encoder_weight=stored.matrix("W_enc", (len(bias), width), transposed=True),
        encoder_bias=bias,
        decoder=next(iter(decoders.values()))
        if decoders
        else stored.matrix("W_dec", (len(bias), len(bias_out)), transposed=False),
        decoder_bias=bias_out,
        rule=Threshold(stored.threshold("threshold", len(bias))),
        input_scale=1.0 / scale,
        output_scale=scale,
        skip=stored.matrix(_SKIP, (len(bias_out), width), transposed=True)
        if _SKIP in stored
        else None,
        decoders=decoders,
        hookpoint=site.pop("hookpoint", None),
        hookpoint_out=site.pop("hookpoint_out", None),
        source=f"Gemma Scope `{weights}`",
        declared={
            "format": "Gemma Scope" if weights.suffix == ".npz" else "Gemma Scope 2",
            "architecture": "jumprelu",
            "prepend_bos": True,
            "context_size": 1024,
            **{name: value for name, value in site.items() if name != "layer"},
            "warnings": stored.leftover(),
        },
    )


def _decoders(
    path: Path, stored: Stored, n_latents: int, width_out: int, site: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """One decoder for each layer written to; none for a coder of one layer."""
    tensor = stored.any("W_dec")
    if tensor.ndim != 3:
        return {}
    layer, layers = site.get("layer"), tensor.shape[1]
    if tuple(tensor.shape) != (n_latents, layers, width_out) or layer is None or layer >= layers:
        raise InputError(
            f"coder `{path}`: tensor `w_dec` has shape {list(tensor.shape)}, which is not "
            f"[{n_latents}, layers, {width_out}] for layer {layer}"
        )
    stored.warnings.append(
        "a cross-layer transcoder: what other layers write to the same output is not in this file"
    )
    return {
        _MLP_OUT.format(n=target): tensor[:, target].contiguous() for target in range(layer, layers)
    }


def _transcodes(path: Path) -> bool:
    return re.search(r"transcoder|clt", str(path.absolute())) is not None


def _site(weights: Path, stored: Stored) -> dict[str, Any]:
    """Hookpoints, model and L0 from the folder's name or the settings beside it."""
    path = str(weights.absolute())
    config = weights.with_name("config.json")
    layers = re.findall(r"layer_(\d+)", path)
    layer = int(layers[-1]) if layers else None
    found: dict[str, Any] = {} if layer is None else {"layer": layer}
    l0 = re.search(r"average_l0_(\d+)", path)
    level = re.search(r"l0_(small|medium|big)", path)
    if l0:
        found["l0"] = int(l0[1])
    elif level:
        found["l0_range"] = list(_L0[level[1]])
    if weights.suffix == ".npz":
        return found | _site_1(path, layer, stored)
    if config.is_file():
        return found | _site_2(config, stored)
    if layer is not None and _transcodes(weights):
        return found | {
            "hookpoint": _MLP_IN.format(n=layer),
            "hookpoint_out": _MLP_OUT.format(n=layer),
        }
    stored.warnings.append("no `config.json`: where on the model it reads is not known")
    return found


def _site_1(path: str, layer: int | None, stored: Stored) -> dict[str, Any]:
    named = _REPOSITORY.search(path)
    if named is None or (layer is None and "embedding" not in path):
        stored.warnings.append(
            "no folder is called `gemma-scope-…` with `layer_…`: where it reads is not known"
        )
        return {}
    suffix = "" if named["kind"] == "pt" else "-it"
    found: dict[str, Any] = {"model_name": f"google/gemma-2-{named['size']}{suffix}"}
    if "embedding" in path:
        stored.warnings.append("an embedding coder: read at √d times the embedding's own scale")
        return found | {"hookpoint": "hook_embed", "hookpoint_out": "hook_embed", "embedding": True}
    hook, other = (name.format(n=layer) for name in _SITES_1[named["site"]])
    out = _MLP_OUT.format(n=layer) if named["site"] == "transcoders" else hook
    if named["site"] == "transcoders":
        stored.warnings.append("reads the normalized input of the MLP before the norm's own gain")
    return found | {"hookpoint": hook, "hookpoint_out": out, "hook_name": other}


def _site_2(path: Path, stored: Stored) -> dict[str, Any]:
    config = settings(path)
    if config.get("architecture") != "jump_relu":
        raise InputError(
            f"coder `{path}`: `architecture` = `{config.get('architecture')}` is not known; "
            "`jump_relu` is"
        )
    if config.get("affine_connection") and _SKIP not in stored:
        raise InputError(
            f"coder `{stored.path}`: tensor `{_SKIP}` is missing, but `affine_connection` of "
            f"{path.name} says that there is one"
        )
    found: dict[str, Any] = {}
    if config.get("model_name"):
        found["model_name"] = config["model_name"]
    for field, name in (("hf_hook_point_in", "hookpoint"), ("hf_hook_point_out", "hookpoint_out")):
        said = config.get(field)
        if isinstance(said, str):
            found[name] = said.removesuffix(".output")
            if said.endswith(".input"):
                found[name] = f"{said.removesuffix('.input')}:in"
    found.setdefault("hookpoint_out", found.get("hookpoint"))
    return found
