"""Folders that are whole or not there: the cache, and anything written in one go.

with new_folder(cache_folder() / "smollm2") as scratch:
    (scratch / "config.json").write_text(...)
# now, and only now, there is a folder `smollm2`
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glossator.errors import InputError

__all__ = ["cache_folder", "new_folder"]


def cache_folder(path: str | Path | None = None) -> Path:
    """Where converted models and trained coders are kept between runs.

    Args:
        path: a folder that overrides `GLOSSATOR_CACHE`, which overrides `~/.cache/glossator`.
    """
    return Path(path or os.environ.get("GLOSSATOR_CACHE") or "~/.cache/glossator").expanduser()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A scratch folder that takes the name `path` when the block ends without an error.

    Where another process has made `path` in the meantime, its folder stays and this one goes: both
    hold the same, since what is cached is named by all that determines it.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise InputError(f"folder `{path.parent}`: cannot be written ({error.strerror})") from error
    try:
        yield scratch
        for file in scratch.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
            _sync(file)
        scratch.chmod(0o755)
        try:
            scratch.rename(path)
        except OSError:
            if not path.is_dir():
                raise
        else:
            _sync(path.parent)
    except OSError as error:
        raise InputError(f"folder `{path}`: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
