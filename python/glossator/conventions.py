"""Which other coder could the same files mean? Every convention that is often read wrongly.

    others = meant_places(subject, coder, ["model.layers.3.mlp:in"])
    for reading in readings(coder, x, x, {}):
        print(reading.convention, reading.reading)
        latents, activations = reading.coder().encode(reading.x)

Each differs from the coder as read in one convention; `gate` measures which one is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from glossator.coders import SparseCoder
from glossator.coders.normalize import NORMALIZATIONS
from glossator.encode import Threshold, TopK
from glossator.errors import InputError
from glossator.reconstruction import activation_factor
from glossator.subjects import Subject
from glossator.subjects.hookpoints import places

__all__ = ["Reading", "meant_places", "readings"]

_BEFORE_MLP = ("hook_resid_mid", "ln2.hook_normalized", "mlp.hook_in")
"""What an MLP reads before its norm, without the norm's gain and with it."""

_SAME = 1.1
"""Scales nearer to each other than this factor are one."""
_OTHER = 2.0
"""A factor on activations that no right coder wants: an L1 penalty shrinks them by a third."""
_UNIT = 0.01
"""Decoder rows whose norms differ from 1 by less are unit rows."""
_USUAL_K = (16, 32, 64, 128, 256)


@dataclass(frozen=True, eq=False)
class Reading:
    """A coder under another convention.

    Attributes:
        convention: which convention is another.
        reading: how it is read: completes "read with …".
        remedy: how to have it read so.
        coder: makes the coder, so that one is held at a time.
        x: float[N, d]: what it reads.
        target: float[N, d_out]: what it describes.
    """

    convention: str
    reading: str
    remedy: str
    coder: Callable[[], SparseCoder]
    x: torch.Tensor
    target: torch.Tensor


def meant_places(subject: Subject, coder: SparseCoder, known: Iterable[str]) -> list[str]:
    """Places of the subject that a coder may have been trained at, rather than those known.

    The other side of each module; before a norm, after it, and after it without its gain; and the
    place that the coder's files name.

    Args:
        subject: the model.
        coder: `declared` may hold `hook_name`.
        known: resolved names of where it is read and what it is compared with.
    """
    known, names = list(known), []
    for name in known:
        path, _, part = name.partition(":")
        names += [path if part == "in" else f"{path}:in", f"{path}:normalized", path]
    names.append(str(coder.declared.get("hook_name")))
    found = dict.fromkeys(name for name in map(partial(_resolved, subject), names) if name)
    hooks = {name: point.name for name, point in places(subject.model).items()}
    for block in {name.split(".")[1] for name in hooks if name.startswith("blocks.")}:
        group = [hooks.get(f"blocks.{block}.{name}") for name in _BEFORE_MLP]
        if not {*group, str(group[1]).partition(":")[0]}.isdisjoint(known):
            found |= dict.fromkeys(name for name in group if name)
    return [name for name in found if name not in known]


def _resolved(subject: Subject, name: str) -> str | None:
    try:
        return subject.resolve(name)
    except InputError:
        return None


_Change = tuple[str, str, str, Callable[[], dict[str, Any]]]
"""Convention, reading, the fields to set, and their values."""


def readings(
    coder: SparseCoder,
    x: torch.Tensor,
    target: torch.Tensor,
    others: Mapping[str, torch.Tensor],
    *,
    transcodes: bool = False,
) -> Iterator[Reading]:
    """The other readings of a coder, one convention at a time.

    Args:
        coder: as read.
        x: float[N, d]: what it reads.
        target: float[N, d_out]: what it describes; `x` for an autoencoder.
        others: what could have been meant for either, by name.
        transcodes: whether `target` is another tensor than `x`.
    """
    for name, rows in others.items():
        remedy = f"harvest at `{name}`" if not transcodes else f"give it `{name}`"
        if rows.shape[1] == coder.width:
            own = target if transcodes else rows
            yield Reading("input", f"`{name}` as its input", remedy, lambda: coder, rows, own)
        if transcodes and rows.shape[1] == coder.width_out:
            remedy = f"compare it with `{name}`"
            yield Reading("target", f"`{name}` as its output", remedy, lambda: coder, x, rows)
    for change in (_biases, _normalizations, _scales, _orientations, _norms, _rules):
        for convention, reading, fields, values in change(coder, x, target):
            yield Reading(
                convention,
                reading,
                f"set {fields} of the coder",
                lambda values=values: replace(coder, **values()),  # type: ignore[misc]
                x,
                target,
            )


def _biases(coder: SparseCoder, *_: torch.Tensor) -> Iterator[_Change]:
    kind = "input bias"
    if coder.input_bias is not None:
        yield kind, "no bias taken off its input", "`input_bias=None`", lambda: {"input_bias": None}
    elif coder.width == coder.width_out and bool(coder.decoder_bias.any()):
        yield (
            kind,
            "the decoder's bias taken off its input",
            "`input_bias=coder.decoder_bias`",
            lambda: {"input_bias": coder.decoder_bias},
        )


def _normalizations(coder: SparseCoder, *_: torch.Tensor) -> Iterator[_Change]:
    for name in NORMALIZATIONS:
        if name != coder.normalization:
            yield (
                "normalization",
                f"`{name}` done to its input" if name != "none" else "its input not normalised",
                f'`normalization="{name}"`',
                lambda name=name: {"normalization": name},  # type: ignore[misc]
            )


def _scales(coder: SparseCoder, x: torch.Tensor, target: torch.Tensor) -> Iterator[_Change]:
    """Factors on the way in, an autoencoder's undone on the way out; and on the way out alone."""
    if coder.normalization == "none":
        yield from _input_scales(coder, x, target)
    size = max(float(target.norm(dim=1).mean()), 1e-12) / math.sqrt(coder.width_out)
    tried = [coder.output_scale]
    for scale in (1.0 / coder.input_scale, 1.0, size, 1.0 / size):
        if all(max(scale / other, other / scale) > _SAME for other in tried):
            tried.append(scale)
            yield (
                "output scale",
                f"a factor of {scale:.4g} on its output",
                f"`output_scale={scale:.6g}`",
                lambda scale=scale: {"output_scale": scale},  # type: ignore[misc]
            )
    factor = activation_factor(coder, x, target)
    if factor is not None and max(factor, 1.0 / factor) >= _OTHER:
        now = coder.decoder_scale
        held = torch.ones_like(coder.encoder_bias) if now is None else now
        yield (
            "activation scale",
            f"its activations times {factor:.4g} before they are decoded",
            f"`decoder_scale` {'' if now is None else 'times '}{factor:.4g}",
            lambda: {"decoder_scale": held * factor},
        )


def _input_scales(coder: SparseCoder, x: torch.Tensor, target: torch.Tensor) -> Iterator[_Change]:
    root = math.sqrt(coder.width)
    fit = root / max(float(x.norm(dim=1).mean()), 1e-12)
    undone = ", undone on the way out" if target is x else ""
    tried = [coder.input_scale]
    for scale, name in (
        (1.0, "no factor on its input"),
        (fit, "its input scaled to a mean norm of √d"),
        (1.0 / fit, "its input scaled by its mean norm over √d"),
        (root, "its input times √d"),
        (1.0 / root, "its input over √d"),
    ):
        if all(max(scale / other, other / scale) > _SAME for other in tried):
            tried.append(scale)
            back = 1.0 / scale if target is x else coder.output_scale
            yield (
                "input scale",
                f"{name} (a factor of {scale:.4g}{undone})",
                f"`input_scale={scale:.6g}, output_scale={back:.6g}`",
                lambda scale=scale, back=back: {  # type: ignore[misc]
                    "input_scale": scale,
                    "output_scale": back,
                },
            )


def _orientations(coder: SparseCoder, *_: torch.Tensor) -> Iterator[_Change]:
    """A square matrix says nothing of which side is which."""
    encoder, decoder = coder.encoder_weight, coder.decoder
    if coder.n_latents == coder.width:
        yield (
            "encoder orientation",
            "its encoder's weight transposed",
            "`encoder_weight=coder.encoder_weight.T`",
            lambda: {"encoder_weight": encoder.T.contiguous()},
        )
    if coder.n_latents == coder.width_out:
        yield (
            "decoder orientation",
            "its decoder transposed",
            "`decoder=coder.decoder.T`",
            lambda: {"decoder": decoder.T.contiguous()},
        )
    if coder.skip is not None and coder.width == coder.width_out:
        skip = coder.skip
        yield (
            "skip orientation",
            "its skip connection transposed",
            "`skip=coder.skip.T`",
            lambda: {"skip": skip.T.contiguous()},
        )
    if coder.n_latents == coder.width == coder.width_out:
        yield (
            "both orientations",
            "its encoder's weight and its decoder transposed",
            "`encoder_weight=coder.encoder_weight.T, decoder=coder.decoder.T`",
            lambda: {"encoder_weight": encoder.T.contiguous(), "decoder": decoder.T.contiguous()},
        )


def _norms(coder: SparseCoder, *_: torch.Tensor) -> Iterator[_Change]:
    """The norms of the decoder's rows: in the activations, in their ranks, or in neither."""
    kind = "decoder norm"
    norms = coder.decoder.norm(dim=1)
    if bool(((norms - 1).abs() <= _UNIT).all()):
        return
    norms = norms.clamp(min=1e-12)
    if coder.decoder_scale is not None:
        yield (
            kind,
            "activations decoded as they are",
            "`decoder_scale=None`",
            lambda: {"decoder_scale": None},
        )
        yield (
            kind,
            "activations that do not carry the norms of the decoder's rows",
            "`encoder_weight` and `encoder_bias` over the decoder's norms and `decoder_scale=None`",
            lambda: _folded(coder, 1.0 / norms) | {"decoder_scale": None},
        )
        return
    yield (
        kind,
        "activations divided by the norms of the decoder's rows before decoding",
        "`decoder_scale=1 / coder.decoder.norm(dim=1)`",
        lambda: {"decoder_scale": 1.0 / norms},
    )
    yield (
        kind,
        "activations multiplied by the norms of the decoder's rows before the rule",
        "`encoder_weight` and `encoder_bias` times the decoder's norms and `decoder_scale` to "
        "their inverse",
        lambda: _folded(coder, norms) | {"decoder_scale": 1.0 / norms},
    )


def _folded(coder: SparseCoder, factor: torch.Tensor) -> dict[str, Any]:
    return {
        "encoder_weight": coder.encoder_weight * factor[:, None],
        "encoder_bias": coder.encoder_bias * factor,
    }


def _rules(coder: SparseCoder, *_: torch.Tensor) -> Iterator[_Change]:
    """Top-k or threshold, as far as the files give what the other one needs."""
    kind = "rule"
    said = coder.declared
    relu = isinstance(coder.rule, Threshold) and not bool(coder.rule.values.any())
    k = next((n for name in ("k", "l0", "l0_range") if (n := _middle(said.get(name)))), None)
    # Of a top-k coder without its k the powers of two are tried, which most have.
    for number in [k] if k is not None else _USUAL_K if relu else ():
        if 1 <= number <= coder.n_latents and coder.rule != TopK(number):
            yield (
                kind,
                f"the {number} largest pre-activations of a token",
                f"`rule=TopK({number})`" + ("" if k is not None else ", or the k of its training"),
                lambda number=number: {"rule": TopK(number)},  # type: ignore[misc]
            )
    if "threshold" in said and not isinstance(coder.rule, Threshold):
        given = torch.as_tensor(said["threshold"], dtype=torch.float32)
        given = given.to(coder.encoder_bias.device).expand(coder.n_latents).contiguous()
        if bool((given >= 0).all()):
            yield (
                kind,
                "the threshold that its files hold",
                "`rule=Threshold(…)` of its declared threshold",
                lambda: {"rule": Threshold(given)},
            )
    if not relu:
        zeros = torch.zeros_like(coder.encoder_bias)
        yield (
            kind,
            "every positive pre-activation active",
            "`rule=Threshold(torch.zeros(n_latents))`",
            lambda: {"rule": Threshold(zeros)},
        )


def _middle(said: object) -> int | None:
    """A number, or the middle of two, as a whole number above zero; None of anything else."""
    pair = said if isinstance(said, list | tuple) and len(said) == 2 else (said, said)
    bounds = [bound for bound in pair if isinstance(bound, int | float) and 0 < bound < math.inf]
    return max(round(math.sqrt(math.prod(bounds))), 1) if len(bounds) == 2 else None
