"""The layout of EleutherAI's sparsify: `<hookpoint>/cfg.json` and `<hookpoint>/sae.safetensors`.

    coder = read(Path("saes"), "layers.10")
    write(coder, Path("mine"))

Tensors: `encoder.weight` [L, d], `encoder.bias` [L], `W_dec` [L, d_out], `b_dec` [d_out], and
`W_skip` [d_out, d] where there is a skip connection. A coder with `transcode` reads its module's
input as it is and writes its output; the others take `b_dec` off first. Besides top-K there is
`groupmax`: the largest of each of k groups of neighbouring latents.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from glossator.coders.files import Stored, flag, settings, word
from glossator.coders.record import SparseCoder
from glossator.encode import GroupMax, TopK
from glossator.errors import InputError
from glossator.folders import new_folder

__all__ = ["agree", "hookpoints", "read", "read_weights", "write"]

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
    coder = read_weights(folder / _WEIGHTS)
    trained_at = coder.declared.get("trained_at")
    if hookpoint and trained_at and not agree(hookpoint, trained_at):
        raise InputError(
            f"coder `{folder}`: was trained at `{trained_at}` and does not read `{hookpoint}`; "
            "give both the same hookpoint"
        )
    if hookpoint is None:
        return coder
    out = coder.hookpoint_out if coder.input_bias is None else hookpoint
    return replace(coder, hookpoint=hookpoint, hookpoint_out=out)


def read_weights(weights: Path, *, k: int | None = None) -> SparseCoder:
    """Read one coder from its file of weights; `cfg.json` stands beside it.

    Args:
        weights: `sae.safetensors`.
        k: refused where `cfg.json` names another.

    Raises:
        InputError: as `read`.
    """
    folder = weights.parent
    path = folder / _CONFIG
    config = _config(path, k)
    stored = Stored.of(folder / _WEIGHTS)
    bias, bias_out = stored.vector("encoder.bias"), stored.vector("b_dec")
    if flag(path, config, "skip_connection", False) and _SKIP not in stored:
        raise InputError(
            f"coder `{weights}`: tensor `{_SKIP}` is missing, but `skip_connection` of {_CONFIG} "
            "says that there is one"
        )
    found = stored.any("encoder.weight").shape
    transcode = flag(path, config, "transcode", False)
    # A transcoder may write another width than it reads; its own settings say which it reads.
    width = int(config.get("d_in", found[-1])) if transcode else len(bias_out)
    n_latents = config.get("num_latents") or width * config.get("expansion_factor", 32)
    for name, said, size in (
        ("d_in", config.get("d_in", width), found[-1]),
        ("num_latents", n_latents, found[0]),
    ):
        if said != size and tuple(found) != (width, len(bias)):
            raise InputError(
                f"coder `{path}`: `{name}` = {said}, but `encoder.weight` of "
                f"{_WEIGHTS} has shape {list(found)}"
            )
    trained_at, writes = _stated(folder)
    name = trained_at or folder.resolve().name
    reads = f"{name}:in" if transcode and not trained_at else name
    rule = GroupMax(config["k"]) if config.get("activation") == "groupmax" else TopK(config["k"])
    shape = (len(bias), len(bias_out))
    return SparseCoder(
        encoder_weight=stored.matrix("encoder.weight", (len(bias), width), transposed=False),
        encoder_bias=bias,
        decoder=stored.matrix("W_dec", shape, transposed=False),
        decoder_bias=bias_out,
        rule=rule,
        input_bias=None if transcode else bias_out,
        skip=stored.matrix(_SKIP, (len(bias_out), width), transposed=False)
        if _SKIP in stored
        else None,
        hookpoint=reads,
        hookpoint_out=writes if transcode and trained_at else name,
        source=f"sparsify `{folder}`",
        declared={
            "format": "sparsify",
            "architecture": ("transcoder, " if transcode else "") + rule.describe(),
            **({"trained_at": trained_at} if trained_at else {}),
            **_run(folder.parent / "config.json"),
            "warnings": stored.leftover(),
        },
    )


def _run(path: Path) -> dict[str, Any]:
    """What the training run above the coder's folder says of model and data."""
    if not path.is_file():
        return {}
    config = settings(path)
    wanted = {"model": "model_name", "dataset": "dataset", "ctx_len": "context_size"}
    return {ours: config[name] for name, ours in wanted.items() if config.get(name) is not None}


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


def _stated(folder: Path) -> tuple[str | None, str | None]:
    """Where `glossator.json` says that the coder reads and writes, where there is one."""
    path = folder / "glossator.json"
    if not path.is_file():
        return None, None
    try:
        facts = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"coder `{path}`: not JSON ({error})") from error
    facts = facts if isinstance(facts, dict) else {}
    return word(facts, "hookpoint"), word(facts, "hookpoint_out")


def agree(one: str, other: str) -> bool:
    """Whether two names may mean one module: the inner model's own name may be left out."""
    one, other = one.removesuffix(":in"), other.removesuffix(":in")
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")


def _config(path: Path, k: int | None) -> dict[str, Any]:
    config = settings(path)
    if not isinstance(config.get("k"), int) or isinstance(config["k"], bool):
        raise InputError(f"coder `{path}`: field `k` is missing or no whole number")
    if k not in (None, config["k"]):
        raise InputError(f"coder `{path}`: `k` = {config['k']}, and {k} was given; leave it out")
    rule = config.get("activation", "topk")
    if rule not in ("topk", "groupmax") or config.get("signed"):
        said = "signed" if config.get("signed") else rule
        raise InputError(
            f"coder `{path}`: activation `{said}` is not read; `topk` and `groupmax` are"
        )
    return config
