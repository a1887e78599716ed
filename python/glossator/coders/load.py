"""A sparse coder by path or name, its format recognised from the files.

coder = load_coder("saes/layers.10")
coder = load_coder("owner/name", hookpoint="layers.10")      # a Hugging Face repository
coder = load_coder("google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71")
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from glossator.coders import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    goodfire,
    hub,
    llama_scope,
    openai,
    qwen_scope,
    saelens,
    sparsify,
)
from glossator.coders.layouts import Place, choose, coders_among, format_of
from glossator.coders.record import SparseCoder
from glossator.errors import InputError

__all__ = ["FORMATS", "load_coder"]

FORMATS: dict[str, Callable[..., SparseCoder]] = {
    "circuit_tracer": circuit_tracer.read,
    "dictionary_learning": dictionary_learning.read,
    "gemma_scope": gemma_scope.read,
    "goodfire": goodfire.read,
    "llama_scope": llama_scope.read,
    "openai": openai.read,
    "qwen_scope": qwen_scope.read,
    "saelens": saelens.read,
    "sparsify": sparsify.read_weights,
}
"""What reads each format: a file of weights, and k where the files leave it open."""

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(/[\w./-]+)?")
_DEEPEST = 5


def load_coder(
    path: str | Path, hookpoint: str | None = None, *, k: int | None = None
) -> SparseCoder:
    """Load a sparse coder of any format that is known; `docs/coders.md` lists them.

    Args:
        path: a folder, a file of weights, or the name of a Hugging Face repository, with a folder
            in it where that helps: `owner/name/folder`.
        hookpoint: which of several coders: its name, or the module it reads. May be None where
            there is one. The coder then reads there.
        k: latents kept of a token, where the files leave it open.

    Raises:
        InputError: nothing there, several and none named, or nothing that is understood; names the
            file, the field and the remedy.
    """
    place = Path(path)
    if not place.exists() and isinstance(path, str) and _HUB_NAME.fullmatch(path):
        place = hub.fetch(path, hookpoint)
    if place.is_file():
        return _named(_read(place, Place(place.name, format_of(place)), k), hookpoint, place)
    if not place.is_dir():
        raise InputError(f"coder `{path}`: no such folder")
    listed = circuit_tracer.listed(place)
    found = {name: Place(file, "circuit_tracer") for name, file in listed.items()}
    found = found or coders_among(_files(place))
    if not found:
        raise InputError(
            f"coder `{path}`: holds no coder of a known layout (neither cfg.json nor "
            "sae_weights.safetensors, ae.pt, params.npz, …); docs/coders.md lists the layouts"
        )
    _, chosen = choose(str(path), found, hookpoint)
    if listed:
        remote = chosen.weights.startswith("hf://")
        file = hub.file(chosen.weights) if remote else Path(chosen.weights)
        reader = partial(circuit_tracer.read, config=place / "config.yaml")
        return _named(_tried(reader, file, k), hookpoint, file)
    file = place / chosen.weights
    return _named(_read(file, chosen, k), hookpoint, file)


def _files(folder: Path) -> list[str]:
    """The files of a folder and of those in it, relative, and not for ever down."""
    found: list[str] = []
    for root, folders, names in os.walk(folder, followlinks=True):
        here = Path(root).relative_to(folder)
        if len(here.parts) >= _DEEPEST:
            folders.clear()
        found += [(here / name).as_posix() for name in names]
    return found


def _read(weights: Path, place: Place, k: int | None) -> SparseCoder:
    if place.format == "temporal":
        raise InputError(
            f"coder `{weights}`: a temporal autoencoder cannot be read: a token's code depends on "
            "the tokens before it"
        )
    return _tried(FORMATS[place.format], weights, k)


def _tried(read: Callable[..., SparseCoder], weights: Path, k: int | None) -> SparseCoder:
    """Read, and name the file where its settings are of types that no reader expects."""
    try:
        return read(weights, k=k)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        line = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise InputError(
            f"coder `{weights}`: the settings beside it are not of its format ({line})"
        ) from error


def _named(coder: SparseCoder, hookpoint: str | None, weights: Path) -> SparseCoder:
    """The coder reading where it was asked to; its file's own word stays in what it declares.

    Where the files say what it reads and `hookpoint` only names its folder, the files count.
    """
    if hookpoint is None or coder.hookpoint == hookpoint:
        return coder
    trained_at = coder.declared.get("trained_at")
    if trained_at and not sparsify.agree(hookpoint, trained_at):
        raise InputError(
            f"coder `{weights.parent}`: was trained at `{trained_at}` and does not read "
            f"`{hookpoint}`; give both the same hookpoint"
        )
    names = (weights.parent.as_posix(), weights.with_suffix("").as_posix())
    if coder.hookpoint and any(f"/{name}".endswith(f"/{hookpoint}") for name in names):
        return coder
    declared = (
        {"hook_name": coder.hookpoint, **coder.declared} if coder.hookpoint else coder.declared
    )
    out = hookpoint if coder.hookpoint_out == coder.hookpoint else coder.hookpoint_out
    return replace(coder, hookpoint=hookpoint, hookpoint_out=out, declared=declared)
