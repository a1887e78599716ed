"""The layout of EleutherAI's sparsify: `<hookpoint>/cfg.json` and `<hookpoint>/sae.safetensors`.

    coder = read(Path("saes"), "layers.10")
    write(coder, Path("mine"))

Tensors: `encoder.weight` [L, d], `encoder.bias` [L], `W_dec` [L, d_out], `b_dec` [d_out], and
`W_skip` [d_out, d] where there is a skip connection. A coder with `transcode` reads its input as it
is; the others take `b_dec` off first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from glossator.coders.record import SparseCoder
from glossator.encode import TopK
from glossator.errors import InputError
from glossator.folders import new_folder

__all__ = ["hookpoints", "read", "write"]

_CONFIG = "cfg.json"
_WEIGHTS = "sae.safetensors"
_SKIP = "W_skip"


def hookpoints(path: Path) -> list[str]:
    """The hookpoints that have a coder in this folder."""
    return sorted(file.parent.name for file in path.glob(f"*/{_CONFIG}"))


def read(path: Path, hookpoint: str | None = None) -> SparseCoder:
    """Read one coder.

    Args:
        path: a coder's own folder, or the folder above the hookpoints' folders.
        hookpoint: which of them; may be None where there is one.

    Raises:
        InputError: no coder there, several and none named, a rule that is not top-K, a tensor
            missing, of a wrong shape or with NaN; each names the file and the field.
    """
    folder = _folder(path, hookpoint)
    config = _config(folder / _CONFIG)
    tensors = _tensors(folder / _WEIGHTS)
    n_latents, width = tensors["encoder.weight"].shape
    declared = config.get("num_latents") or width * config.get("expansion_factor", 32)
    for name, said, found in (
        ("d_in", config.get("d_in", width), width),
        ("num_latents", declared, n_latents),
    ):
        if said != found:
            raise InputError(
                f"coder `{folder / _CONFIG}`: `{name}` = {said}, but `encoder.weight` of "
                f"{_WEIGHTS} has shape [{n_latents}, {width}]"
            )
    trained_at = _stated(folder)
    if hookpoint and trained_at and not _agree(hookpoint, trained_at):
        raise InputError(
            f"coder `{folder}`: was trained at `{trained_at}` and does not read `{hookpoint}`; "
            "give both the same hookpoint"
        )
    name = hookpoint or trained_at or folder.resolve().name
    transcode = bool(config.get("transcode"))
    return SparseCoder(
        encoder_weight=tensors["encoder.weight"],
        encoder_bias=tensors["encoder.bias"],
        decoder=tensors["W_dec"],
        decoder_bias=tensors["b_dec"],
        rule=TopK(config["k"]),
        input_bias=None if transcode else tensors["b_dec"],
        skip=tensors.get(_SKIP),
        hookpoint=name,
        hookpoint_out=None if transcode else name,
        source=f"sparsify `{folder}`",
    )


def write(coder: SparseCoder, path: Path, facts: dict[str, Any] | None = None) -> Path:
    """Write a coder into `path/<hookpoint>`, whole or not at all.

    Args:
        coder: any coder; its hookpoint names the folder.
        path: the folder above.
        facts: written beside it as `glossator.json`.

    Returns:
        The coder's own folder.

    Raises:
        InputError: the coder has no hookpoint, or the folder exists.
    """
    if coder.hookpoint is None:
        raise InputError("a coder without a hookpoint has no folder to stand in; name it first")
    folder = path / coder.hookpoint
    if folder.exists():
        raise InputError(f"coder `{folder}`: exists; remove it, or write elsewhere")
    with new_folder(folder) as scratch:
        fill(coder, scratch, facts)
    return folder


def fill(coder: SparseCoder, folder: Path, facts: dict[str, Any] | None = None) -> None:
    """Write a coder's files into a folder.

    Raises:
        InputError: the layout has no word for one of the coder's conventions.
    """
    if (
        not isinstance(coder.rule, TopK)
        or (coder.normalization, coder.input_scale, coder.output_scale) != ("none", 1.0, 1.0)
        or coder.decoder_scale is not None
        or coder.decoders
        or not (coder.input_bias is None or torch.equal(coder.input_bias, coder.decoder_bias))
    ):
        raise InputError(
            f"coder {coder.source}: the sparsify layout holds top-K coders that read their input "
            "as it is, or less their decoder's bias; this one is another"
        )
    tensors = {
        "encoder.weight": coder.encoder_weight,
        "encoder.bias": coder.encoder_bias,
        "W_dec": coder.decoder,
        "b_dec": coder.decoder_bias,
    }
    if coder.skip is not None:
        tensors[_SKIP] = coder.skip
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / _WEIGHTS
    )
    config = {
        "activation": "topk",
        "expansion_factor": max(coder.n_latents // coder.width, 1),
        "normalize_decoder": True,
        "num_latents": coder.n_latents,
        "k": coder.k,
        "multi_topk": False,
        "skip_connection": coder.skip is not None,
        "transcode": coder.input_bias is None,
        "d_in": coder.width,
    }
    (folder / _CONFIG).write_text(json.dumps(config, indent=1))
    facts = {**(facts or {}), "hookpoint": coder.hookpoint, "hookpoint_out": coder.hookpoint_out}
    (folder / "glossator.json").write_text(json.dumps(facts, indent=1))


def _folder(path: Path, hookpoint: str | None) -> Path:
    if (path / _CONFIG).is_file():
        return path
    known = hookpoints(path)
    if not known:
        raise InputError(
            f"coder `{path}`: holds neither {_CONFIG} nor folders with one (the sparsify layout)"
        )
    if hookpoint is None and len(known) == 1:
        return path / known[0]
    if hookpoint in known:
        return path / hookpoint
    what = "several coders" if hookpoint is None else f"none for `{hookpoint}`"
    raise InputError(
        f"coder `{path}`: {what}; name one with `hookpoint`: "
        + ", ".join(f"`{name}`" for name in known)
    )


def _stated(folder: Path) -> str | None:
    """The hookpoint that `glossator.json` says, where there is one."""
    path = folder / "glossator.json"
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"coder `{path}`: not JSON ({error})") from error
    name = facts.get("hookpoint") if isinstance(facts, dict) else None
    return name if isinstance(name, str) else None


def _agree(one: str, other: str) -> bool:
    """Whether two names may mean one module: the inner model's own name may be left out."""
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"coder `{path}`: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"coder `{path}`: not JSON ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("k"), int):
        raise InputError(f"coder `{path}`: field `k` is missing or no whole number")
    rule = config.get("activation", "topk")
    if rule != "topk" or config.get("signed"):
        said = "signed" if config.get("signed") else rule
        raise InputError(f"coder `{path}`: activation `{said}` is not read; `topk` is")
    return config


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise InputError(f"coder `{path}`: no such file")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"coder `{path}`: not readable as safetensors ({error})") from error
    for name, dimensions in (
        ("encoder.weight", 2),
        ("encoder.bias", 1),
        ("W_dec", 2),
        ("b_dec", 1),
    ):
        if name not in tensors:
            raise InputError(f"coder `{path}`: tensor `{name}` is missing")
        if tensors[name].ndim != dimensions:
            raise InputError(
                f"coder `{path}`: tensor `{name}` has shape {list(tensors[name].shape)}"
            )
    return {name: tensor.float() for name, tensor in tensors.items()}
