"""Where an export goes: a folder that is not there yet, made whole or not at all.

with new_tree(absent("out")) as scratch:
    (scratch / "index.json").write_text("{}")
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glossator.errors import InputError
from glossator.folders import new_folder

__all__ = ["absent", "new_tree"]


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
    """A scratch folder that becomes `path`.

    Raises:
        InputError: it cannot be written, or the disk is full.
    """
    try:
        with new_folder(path) as scratch:
            yield scratch
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
