"""What a hookpoint's name means in a model: a module, and which side of it is read.

    point = resolve(model, "blocks.6.hook_mlp_out")     # TransformerLens's and SAELens's names
    point = resolve(model, "layers.3.mlp:in")           # a module's path, and what it is given
    point.name, point.path, point.part

A name is, in this order: the path of a module, which may leave out the inner model's name, alone or
with `:in`, `:out` or `:normalized`; a path with `.input` or `.output`, as in Gemma Scope 2; a name
of TransformerLens, for the families of `families`; a name of dictionary_learning's
(`resid_post_layer_8`).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

import torch

from glossator.errors import InputError
from glossator.subjects.families import FAMILIES, Family, family_of

__all__ = ["Point", "normalized", "places", "resolve"]

_Part = Literal["out", "in", "normalized"]
_PARTS: dict[str, _Part] = {"out": "out", "in": "in", "normalized": "normalized"}
_SIDES: dict[str, _Part] = {"input": "in", "output": "out"}
_INNER = re.compile(r"(?:model|transformer|gpt_neox|bert|roberta|language_model)\.")
_OTHER_TOWER = re.compile(r"(?:^|\.)(?:vision|visual|audio|speech|image)[^.]*(?:\.|$)")
_LAYER_OF = re.compile(r"(resid_pre|resid_mid|resid_post|attn_out|mlp_out|mlp_in)_layer_(\d+)")


@dataclass(frozen=True)
class Point:
    """A place in a model.

    Attributes:
        path: of the module, as in `model.named_modules()`.
        part: `out`, what it gives; `in`, what it is given; `normalized`, of a norm, what it is
            given, normalised and not yet multiplied with its gain.
    """

    path: str
    part: _Part = "out"

    @property
    def name(self) -> str:
        """The one name of the place: `PATH`, `PATH:in` or `PATH:normalized`."""
        return self.path if self.part == "out" else f"{self.path}:{self.part}"


def resolve(model: torch.nn.Module, name: str) -> Point:
    """The place that a name means.

    Raises:
        InputError: there is none of that name; the error offers the nearest ones.
    """
    paths = [path for path, _ in model.named_modules() if path]
    point = _by_path(model, paths, name) or _by_hook(model, paths, name)
    if point is None:
        offered = _nearest(name, [*paths, *places(model)])
        raise InputError(
            f"hookpoint `{name}`: {type(model).__name__} has no such module; nearest: {offered}"
        )
    if point.part == "normalized":
        _norm(model.get_submodule(point.path), point.path)
    return point


def normalized(module: torch.nn.Module, states: torch.Tensor) -> torch.Tensor:
    """What a norm makes of its input before its gain and bias, in the input's dtype.

    Args:
        module: a LayerNorm or an RMSNorm.
        states: [..., d]; computed in float32, as the modules themselves do.

    Raises:
        InputError: the module is neither.
    """
    epsilon, centred = _norm(module, type(module).__name__)
    x = states.float()
    if centred:
        x = x - x.mean(-1, keepdim=True)
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)).to(states.dtype)


def _norm(module: torch.nn.Module, name: str) -> tuple[float, bool]:
    """Its epsilon, and whether it takes the mean off."""
    kind = type(module).__name__
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if epsilon is None or not ("LayerNorm" in kind or "RMSNorm" in kind):
        raise InputError(
            f"hookpoint `{name}:normalized`: {kind} is no LayerNorm or RMSNorm; name a norm"
        )
    return float(epsilon), "RMSNorm" not in kind


def _by_path(model: torch.nn.Module, paths: list[str], name: str) -> Point | None:
    if found := _module(model, paths, name):
        return Point(found)
    path, colon, part = name.rpartition(":")
    if colon and part in _PARTS and (found := _module(model, paths, path)):
        return Point(found, _PARTS[part])
    path, _, side = name.rpartition(".")
    if side in _SIDES and (found := _module(model, paths, path)):
        return Point(found, _SIDES[side])
    return None


def _module(model: torch.nn.Module, paths: list[str], name: str) -> str | None:
    """The module of that path; the names of the models around it may be left out, or be others."""
    if not name:
        return None
    prefix = getattr(model, "base_model_prefix", "")
    for path in (name, f"{prefix}.{name}"):
        if path in paths:
            return path
    text = [path for path in paths if not _OTHER_TOWER.search(path)]
    for tail in (name, _INNER.sub("", name, count=1)):
        ends = [path for path in text if f".{path}".endswith(f".{tail}")]
        if len(ends) == 1:
            return ends[0]
    return None


def _by_hook(model: torch.nn.Module, paths: list[str], name: str) -> Point | None:
    if layer_of := _LAYER_OF.fullmatch(name):
        name = f"blocks.{layer_of[2]}.hook_{layer_of[1]}"
    block = re.fullmatch(r"blocks\.\d+\.(.+)", name)
    if block is None and "hook_" not in name:
        return None
    family = family_of(model)
    if family is None:
        known = ", ".join(family.name for family in FAMILIES)
        stacks = [path for path in paths if re.search(r"\.\d+$", path)]
        raise InputError(
            f"hookpoint `{name}`: {type(model).__name__} is of no family whose names of "
            f"TransformerLens are known ({known}); name a module, such as "
            f"`{stacks[len(stacks) // 2] if stacks else paths[-1]}`"
        )
    known_places = places(model)
    if block and (why := family.absent.get(block[1])):
        raise InputError(
            f"hookpoint `{name}`: {type(model).__name__} has no such place: {why}; nearest: "
            + _nearest(name, list(known_places))
        )
    return known_places.get(name)


def places(model: torch.nn.Module) -> dict[str, Point]:
    """Every name of TransformerLens that the model has a place for, and the place."""
    family = family_of(model)
    paths = {path: None for path, _ in model.named_modules() if path}
    stack = next((path for path in paths if family and _is_stack(path, family)), None)
    if family is None or stack is None:
        return {}
    inner = stack.removesuffix(family.stack)
    found = {name: _point(inner, place) for name, place in family.others.items()}
    for path in paths:
        if layer := re.fullmatch(rf"{re.escape(stack)}\.(\d+)", path):
            for name, place in family.blocks.items():
                found[f"blocks.{layer[1]}.{name}"] = _point(f"{path}.", place)
    return {name: point for name, point in found.items() if point.path in paths}


def _is_stack(path: str, family: Family) -> bool:
    return f".{path}".endswith(f".{family.stack}") and not _OTHER_TOWER.search(path)


def _point(base: str, place: str) -> Point:
    path, _, part = place.partition(":")
    return Point(f"{base}{path}".removesuffix("."), _PARTS[part or "out"])


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return ", ".join(f"`{one}`" for one in near) or "no name is near"
