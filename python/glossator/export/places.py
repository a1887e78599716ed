"""Where an export goes: a folder that is not there yet, made whole or not at all.

with new_tree(absent("out")) as scratch:
    (scratch / "index.json").write_text("{}")
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from glossator.errors import InputError
from glossator.folders import new_folder

__all__ = ["absent", "new_tree"]

_FRESH = 60.0
"""Seconds in which a folder may have been made and not be locked yet."""


def absent(path: str | Path) -> Path:
    """The path, where nothing stands yet.

    Raises:
        InputError: something stands there.
    """
    path = Path(path)
    if path.exists():
        raise InputError(f"{path}: is there already; name a new folder")
    return path


@contextmanager
def new_tree(path: Path) -> Iterator[Path]:
    """A scratch folder that becomes `path`; those of killed processes beside it are removed.

    Raises:
        InputError: it cannot be written, or the disk is full.
    """
    try:
        # The lock is given back after the folder has its name.
        with ExitStack() as lock, new_folder(path) as scratch:
            lock.enter_context(_locked(scratch))
            _sweep(scratch, path.name)
            yield scratch
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """A lock that ends with the process, however it ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: then nothing is ever swept
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _sweep(own: Path, name: str) -> None:
    for other in own.parent.glob(f".{glob.escape(name)}.????????"):
        with suppress(OSError):
            if other == own or time.time() - other.stat().st_mtime < _FRESH:
                continue
            handle = os.open(other, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(other, ignore_errors=True)
            finally:
                os.close(handle)
