"""Folders and files that are whole or not there: the cache, and anything written in one go.

with new_folder(cache_folder() / "smollm2") as scratch:
    (scratch / "config.json").write_text(...)
# now, and only now, there is a folder `smollm2`
with new_file(out / "table.parquet") as file:
    file.write(...)
# now, and only now, the table that stood there is replaced
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from glossator.errors import InputError

__all__ = ["cache_folder", "new_file", "new_folder"]

_MANY = 1_000
"""Files of a folder from which on they are synced together."""


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
        files = list(scratch.rglob("*"))
        for file in files:
            file.chmod(0o755 if file.is_dir() else 0o644)
        # Each file alone costs a millisecond or more; all that is unwritten, seldom a second.
        if len(files) > _MANY:
            os.sync()
        else:
            for file in files:
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


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the name `path` when the block ends without an error.

    What stood there is replaced in one step, and stays if the block fails or the process is killed.

    Raises:
        InputError: the file cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
