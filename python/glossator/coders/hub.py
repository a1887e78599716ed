"""Coders from Hugging Face: the one that is meant, and no more of a repository than it needs.

folder = fetch("owner/name", "layers.10")
path = file("hf://owner/name/layer_3/params.npz")
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TypeVar
from urllib.parse import parse_qs, urlparse

from glossator.coders.layouts import choose, coders_among
from glossator.errors import InputError

__all__ = ["fetch", "file"]

T = TypeVar("T")


def fetch(name: str, hookpoint: str | None) -> Path:
    """Download one coder.

    Args:
        name: `owner/name`, or `owner/name/folder`.
        hookpoint: which of several coders.

    Returns:
        The folder or file on this machine.

    Raises:
        InputError: not to be had, or not one coder; lists those that are there.
    """
    hub = _hub(name)
    owner, repository, *inner = name.split("/")
    source, folder = f"{owner}/{repository}", "/".join(inner).strip("/")
    files = _tried(name, lambda: hub.list_repo_files(source))
    prefix = f"{folder}/" if folder else ""
    mine = [file.removeprefix(prefix) for file in files if file.startswith(prefix)]
    if "config.yaml" in mine and not any(re.search(r"layer_\d|W_enc_\d", f) for f in mine):
        # A set that lists files of other repositories.
        got = _tried(name, lambda: hub.hf_hub_download(source, f"{prefix}config.yaml"))
        return Path(got).parent
    if folder in files:
        found = {folder: folder}
        weights = folder
    else:
        places = coders_among(mine)
        if not places:
            raise InputError(
                f"coder `{name}`: the repository holds no coder of a known layout"
                + (f" under `{folder}`" if folder else "")
            )
        found = {label: place.weights for label, place in places.items()}
        weights = prefix + choose(name, places, hookpoint)[1].weights
    beside = PurePosixPath(weights).parent
    above = beside.parent if beside.name == "checkpoints" else beside
    wanted = [weights]
    layer = re.search(r"W_enc_(\d+)\.safetensors$", weights)
    if layer:
        wanted.append(str(beside / f"W_dec_{layer[1]}.safetensors"))
    small = (".json", ".yaml")
    wanted += [f for f in files if f.endswith(small) and PurePosixPath(f).parent in (beside, above)]
    wanted += [f for f in files if f == str(beside / "sparsity.safetensors")]
    root = Path(_tried(name, lambda: hub.snapshot_download(source, allow_patterns=wanted)))
    return root / weights if len(found) > 1 or folder in files else root / folder


def file(uri: str) -> Path:
    """Download one file named `hf://owner/name/path?revision=…`.

    Raises:
        InputError: not to be had.
    """
    parsed = urlparse(uri)
    repository, _, path = parsed.path.lstrip("/").partition("/")
    if parsed.scheme != "hf" or not path:
        raise InputError(f"coder `{uri}`: no `hf://owner/name/path`")
    revision = parse_qs(parsed.query).get("revision", [None])[0]
    hub = _hub(uri)
    source = f"{parsed.netloc}/{repository}"
    return Path(_tried(uri, lambda: hub.hf_hub_download(source, path, revision=revision)))


def _hub(name: str) -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(
            f"coder `{name}`: the package `huggingface_hub` is missing; "
            "`pip install 'glossator[models]'`"
        ) from error
    return huggingface_hub


def _tried(name: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except Exception as error:  # the client raises its HTTP library's errors too
        line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"coder `{name}`: no such folder, nor to be had ({line})") from error
