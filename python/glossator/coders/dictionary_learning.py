"""dictionary_learning: a folder with `ae.pt` and `config.json`.

    coder = read(Path("trainer_0/ae.pt"))

Every class is told by its tensors, only top-K from batch-top-K by `dict_class` in `config.json`:

| class | tensors | reads |
|---|---|---|
| `AutoEncoder` | `bias`, `encoder.weight` [L, d], `encoder.bias`, `decoder.weight` [d, L] \
| x − bias |
| `AutoEncoderNew` | the same with `decoder.bias` instead of `bias` | x |
| `GatedAutoEncoder` | `decoder_bias`, `gate_bias`, `mag_bias`, `r_mag` | x − decoder_bias |
| `AutoEncoderTopK`, `BatchTopKSAE` | `b_dec`, `k`, `threshold` (one number) | x − b_dec |
| `JumpReluAutoEncoder` | `W_enc` [d, L], `W_dec` [L, d], `b_enc`, `b_dec`, `threshold` [L] | x |
| `MatryoshkaBatchTopKSAE` | the same with one `threshold`, `k`, `group_sizes` | x − b_dec |

Top-K selects per token although it stores a threshold; batch-top-K is above its threshold at
inference, which is −1 where training never estimated it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from glossator.coders.files import Stored, settings
from glossator.coders.record import SparseCoder
from glossator.encode import ActivationRule, Gated, Threshold, TopK
from glossator.errors import InputError

__all__ = ["read"]

_BIASES = ("bias", "decoder_bias", "b_dec", "decoder.bias")
_BATCHED = ("BatchTopKSAE", "MatryoshkaBatchTopKSAE")


def read(weights: Path, *, k: int | None = None) -> SparseCoder:
    """Read one coder.

    Args:
        weights: `ae.pt`; `config.json` stands beside it.
        k: how many latents of a token to keep, where a batch-top-K coder has no threshold or the
            files name no k.

    Raises:
        InputError: a class that is not known, a threshold that was never set, or a tensor missing,
            of a wrong shape or not finite; names the file and the field.
    """
    stored = Stored.of(weights)
    config, trainer = _config(weights.with_name("config.json"), stored)
    name = _class(weights, stored, trainer)
    bias_out = next((held for held in _BIASES if held in stored), "b_dec")
    decoder_bias = stored.vector(bias_out)
    width = len(decoder_bias)
    bare = "W_enc" in stored
    bias_in = next((b for b in ("b_enc", "encoder.bias", "gate_bias") if b in stored), "b_enc")
    encoder_bias = stored.vector(bias_in)
    shape = (len(encoder_bias), width)
    matrix_in, matrix_out = ("W_enc", "W_dec") if bare else ("encoder.weight", "decoder.weight")
    layer = trainer.get("layer")
    hook = trainer.get("submodule_name") or (None if layer is None else f"resid_post_layer_{layer}")
    known = {
        "model_name": trainer.get("lm_name"),
        "context_size": config.get("buffer", {}).get("ctx_len"),
        "layer": layer,
        "submodule_name": hook,
    }
    return SparseCoder(
        encoder_weight=stored.matrix(matrix_in, shape, transposed=bare),
        encoder_bias=encoder_bias,
        decoder=stored.matrix(matrix_out, shape, transposed=not bare),
        decoder_bias=decoder_bias,
        rule=_rule(weights, name, stored, len(encoder_bias), trainer, k),
        input_bias=None if name in ("AutoEncoderNew", "JumpReluAutoEncoder") else decoder_bias,
        hookpoint=None if layer is None else _hookpoint(str(hook), layer),
        hookpoint_out=None if layer is None else _hookpoint(str(hook), layer),
        source=f"dictionary_learning `{weights.parent}`",
        declared={
            "format": "dictionary_learning",
            "architecture": name,
            **{field: value for field, value in known.items() if value is not None},
            **({"l0": trainer["k"]} if name in _BATCHED and trainer.get("k") else {}),
            "warnings": stored.leftover("k", "threshold", "group_sizes"),
        },
    )


def _config(path: Path, stored: Stored) -> tuple[dict[str, Any], dict[str, Any]]:
    if not path.is_file():
        stored.warnings.append("no `config.json`: model, layer and context length are not known")
        return {}, {}
    config = settings(path)
    trainer = config.get("trainer")
    if not isinstance(trainer, dict):
        raise InputError(f"coder `{path}`: field `trainer` is missing")
    return {**config, "buffer": config.get("buffer") or {}}, trainer


def _hookpoint(submodule: str, layer: int) -> str:
    """The residual stream after a layer under the name that every library maps."""
    named = submodule.startswith("resid_post") or submodule in ("resid", "None")
    return f"blocks.{layer}.hook_resid_post" if named else submodule


def _class(path: Path, stored: Stored, trainer: dict[str, Any]) -> str:
    """The class by its tensors; `dict_class` must agree, and settles what tensors leave open."""
    said = trainer.get("dict_class")
    several = "group_sizes" in stored
    if "gate_bias" in stored:
        found = "GatedAutoEncoder"
    elif "W_enc" in stored:
        found = "MatryoshkaBatchTopKSAE" if several or "k" in stored else "JumpReluAutoEncoder"
    elif "bias" in stored:
        found = "AutoEncoder"
    elif "decoder.bias" in stored:
        found = "AutoEncoderNew"
    elif "b_dec" in stored and said in (None, "AutoEncoderTopK", "BatchTopKSAE"):
        if said is None:
            raise InputError(
                f"coder `{path}`: top-K and batch-top-K have the same tensors; put `config.json` "
                "with `trainer.dict_class` beside it"
            )
        found = said
    else:
        raise InputError(
            f"coder `{path}`: no class of dictionary_learning has these tensors: "
            + ", ".join(f"`{name}`" for name in sorted(stored.tensors)[:12])
        )
    if said not in (None, found):
        raise InputError(
            f"coder `{path}`: `dict_class` = `{said}`, but the tensors are those of `{found}`"
        )
    return found


def _rule(
    path: Path,
    name: str,
    stored: Stored,
    n_latents: int,
    trainer: dict[str, Any],
    k: int | None,
) -> ActivationRule:
    if name == "AutoEncoderTopK":
        said = int(stored.any("k")) if "k" in stored else trainer.get("k", k)
        if not isinstance(said, int):
            raise InputError(f"coder `{path}`: `k` is missing; give `k`")
        if k not in (None, said):
            raise InputError(f"coder `{path}`: `k` = {said}, and {k} was given; leave it out")
        return TopK(said)
    if name in _BATCHED:
        if k is not None:
            stored.warnings.append(
                f"trained as batch-top-K and read as top-{k} of each token, as asked"
            )
            return TopK(k)
        if float(stored.any("threshold").max()) < 0:
            raise InputError(
                f"coder `{path}`: `threshold` = {float(stored.any('threshold').max()):g} was never "
                "estimated; give `k` to keep that many latents of each token"
            )
        return Threshold(stored.threshold("threshold", n_latents))
    if k is not None:
        raise InputError(f"coder `{path}`: `{name}` has no k; leave `k` out")
    if name == "GatedAutoEncoder":
        scale = stored.vector("r_mag", n_latents).exp()
        return Gated(scale, stored.vector("mag_bias", n_latents))
    if name == "JumpReluAutoEncoder":
        return Threshold(stored.threshold("threshold", n_latents))
    return Threshold(torch.zeros(n_latents))
