"""Which files are coders, of which format, and what each is called: from their names alone.

    found = coders_among(["layers.3/cfg.json", "layers.3/sae.safetensors"])
    found["layers.3"]                 # Place(weights="layers.3/sae.safetensors", format="sparsify")

The same serves a folder and the list of files of a repository that is not downloaded yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from glossator.coders.files import names_in
from glossator.errors import InputError

__all__ = ["Place", "choose", "coders_among", "format_of"]


@dataclass(frozen=True)
class Place:
    """Where a coder is.

    Attributes:
        weights: its file of weights, relative to the folder or repository.
        format: the reader's name.
    """

    weights: str
    format: str


# In this order; `folder` names the coder after its folder, `file` after the file. A file with
# `beside` counts only where that file stands next to it.
_LAYOUTS: tuple[tuple[str, str, str, str | None], ...] = (
    (r"sae_weights\.safetensors", "saelens", "folder", "cfg.json"),
    (r"sae_weights\.safetensors", "llama_scope", "folder", "config.json"),
    (r"checkpoints/final\.safetensors", "llama_scope", "folder", "../hyperparams.json"),
    (r"sae\.safetensors", "sparsify", "folder", "cfg.json"),
    (r"ae\.pt", "dictionary_learning", "folder", None),
    (r"params\.(npz|safetensors)", "gemma_scope", "folder", None),
    (r"layer\d+\.sae\.pt", "qwen_scope", "file", None),
    (r"\d+\.pt", "openai", "file", None),
    (r"[^/]*-SAE-l\d+\.pth?", "goodfire", "file", None),
    (r"W_enc_\d+\.safetensors", "circuit_tracer", "file", None),
    (r"layer_\d+[^/]*\.safetensors", "circuit_tracer", "file", None),
    (r"latest_ckpt\.safetensors", "temporal", "folder", "conf.yaml"),
    (r"cfg\.json", "sparsify", "folder", None),
)


def coders_among(files: Iterable[str]) -> dict[str, Place]:
    """Every coder among some files, by name, in the order of their layers.

    Args:
        files: paths with forward slashes, relative to one folder.
    """
    there = {str(PurePosixPath(file)) for file in files}
    found: dict[str, Place] = {}
    for pattern, kind, named, beside in _LAYOUTS:
        for file in sorted(there, key=_by_number):
            match = re.fullmatch(rf"(?:(?P<folder>.*)/)?{pattern}", file)
            if match is None:
                continue
            folder = match["folder"] or ""
            near = None if beside is None else PurePosixPath(folder, beside.removeprefix("../"))
            if near is not None and str(near) not in there:
                continue
            name = folder if named == "folder" else file.rsplit(".", 1)[0]
            found.setdefault(name.removesuffix(".sae") or ".", Place(file, kind))
    return dict(sorted(found.items(), key=lambda item: _by_number(item[0])))


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sort `layer_10` after `layer_9`."""
    return [
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.split(r"(\d+)", name)
        if part
    ]


def _layer(name: str) -> str | None:
    """The first number that stands for a layer in a name."""
    found = re.search(r"(?:layers?|blocks|h)[._]?(\d+)|W_enc_(\d+)|\bL(\d+)|(?:^|/)(\d+)$", name)
    return next((part for part in found.groups() if part), None) if found else None


def choose(where: str, found: dict[str, Place], hookpoint: str | None) -> tuple[str, Place]:
    """The coder that is meant: the only one, or the one that `hookpoint` names.

    A hookpoint names a coder by its name, by the end of it, or by the layer where one alone is of
    that layer.

    Args:
        where: the folder or repository, for the text of an error.
        found: what is there.
        hookpoint: what was asked for.

    Raises:
        InputError: none, several, or none of that name; lists what is there.
    """
    if len(found) == 1:
        (only,) = found.items()
        mine, asked = _layer(only[0]), None if hookpoint is None else _layer(hookpoint)
        if mine is not None and asked is not None and mine != asked:
            raise InputError(
                f"coder `{where}`: none for `{hookpoint}`; name one with `hookpoint`: `{only[0]}`"
            )
        return only
    shown_of = list(found)
    if hookpoint is not None:
        for same in (
            [name for name in found if name == hookpoint],
            [name for name in found if name.endswith(f"/{hookpoint}")],
            [name for name in found if _layer(name) == _layer(hookpoint) is not None],
        ):
            if len(same) == 1:
                return same[0], found[same[0]]
            shown_of = same or shown_of
    several = hookpoint is None or len(shown_of) < len(found)
    what = "several coders" if several else "none"
    what += "" if hookpoint is None else f" for `{hookpoint}`"
    shown = ", ".join(f"`{name}`" for name in shown_of[:24])
    more = f" and {len(shown_of) - 24} more" if len(shown_of) > 24 else ""
    raise InputError(f"coder `{where}`: {what}; name one with `hookpoint`: {shown}{more}")


def format_of(path: Path) -> str:
    """The format of one file, by its name or else by the names of its tensors.

    Raises:
        InputError: not readable, or no format has these tensors; lists them.
    """
    beside = [file.name for file in path.parent.iterdir() if file.is_file()]
    above = [f"{path.parent.name}/{path.name}", "hyperparams.json"]
    for files in (beside, above):
        for place in coders_among(files).values():
            if PurePosixPath(place.weights).name == path.name:
                return place.format
    names = names_in(path)
    for kind, needed in (
        ("openai", {"pre_bias", "latent_bias"}),
        ("goodfire", {"encoder_linear.weight", "decoder_linear.weight"}),
        ("gemma_scope", {"w_enc", "w_dec", "threshold"}),
        ("dictionary_learning", {"encoder.weight", "decoder.weight"}),
        ("sparsify", {"encoder.weight", "W_dec"}),
    ):
        if needed <= names:
            return kind
    if {"W_enc", "W_dec", "b_enc", "b_dec"} <= names:
        if path.suffix == ".npz":
            return "gemma_scope"
        return "circuit_tracer" if path.suffix == ".safetensors" else "qwen_scope"
    shown = ", ".join(f"`{name}`" for name in sorted(names)[:12]) or "nothing"
    raise InputError(f"coder `{path}`: no format is known with these tensors: {shown}")
