"""A sparse coder by path or name, its format recognised from the files.

coder = load_coder("saes/layers.10")
coder = load_coder("owner/name", hookpoint="layers.10")      # a Hugging Face repository
"""

from __future__ import annotations

import re
from pathlib import Path

from glossator.coders import sparsify
from glossator.coders.record import SparseCoder
from glossator.errors import InputError

__all__ = ["load_coder"]

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def load_coder(path: str | Path, hookpoint: str | None = None) -> SparseCoder:
    """Load a sparse coder in the sparsify layout.

    Args:
        path: a folder, or the name of a Hugging Face repository.
        hookpoint: which of several coders; may be None for a folder that holds one.

    Raises:
        InputError: nothing there, or nothing that is understood; names the file and the field.
    """
    folder = Path(path)
    if not folder.exists() and isinstance(path, str) and _HUB_NAME.fullmatch(path):
        folder = _download(path, hookpoint)
    if not folder.is_dir():
        raise InputError(f"coder `{path}`: no such folder")
    return sparsify.read(folder, hookpoint)


def _download(name: str, hookpoint: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise InputError(
            f"coder `{name}`: the package `huggingface_hub` is missing; "
            "`pip install 'glossator[models]'`"
        ) from error
    only = ["cfg.json", "sae.safetensors"] if hookpoint is None else [f"{hookpoint}/*"]
    try:
        return Path(snapshot_download(name, allow_patterns=only))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise InputError(f"coder `{name}`: no such folder, nor to be had ({line})") from error
