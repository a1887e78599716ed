"""How do parts become one index, and partial segments whole ones?

join(["run/part0", "run/part1"], "run/index")
compact("run/index")
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from glossator import _core
from glossator.index.reader import Index
from glossator.progress import SILENT, Progress

__all__ = ["compact", "join"]


def join(
    parts: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    durable: bool = True,
    progress: Progress = SILENT,
) -> None:
    """Join finished indices whose contexts follow one another into a new one.

    Nothing is written again: files get a second name in `out`, and are copied where the file system
    cannot do that. The parts may come in any order and stay as they are. Parts that are folders of
    several hookpoints are joined hookpoint by hookpoint.

    Args:
        parts: Folders of finished indices.
        out: An empty folder, or one that is not there.
        durable: Whether what is committed survives a loss of power; False is quicker.
        progress: counts parts; all at once, when the last is done.

    Raises:
        InputError: Contexts are missing or in two parts, parameters differ, a part is not finished,
            or `out` holds something.
        CorruptIndexError: A part is damaged.
    """
    with progress.stage("join", unit="parts") as bar:
        for part in parts:
            for folder in _indices(Path(part)):
                # Before there is a folder `out`: a damaged part leaves nothing behind.
                Index.open(folder, unfinished=True)
        _core.join([os.fspath(part) for part in parts], os.fspath(out), durable)
        bar.advance(len(parts))


def compact(
    path: str | os.PathLike[str], *, durable: bool = True, progress: Progress = SILENT
) -> None:
    """Merge the partial segments that `join` and later additions leave, up to the grid of segments.

    The index then has the bytes of one undisturbed build. It may be read meanwhile, not written to.

    Args:
        path: The index folder, or that of the hookpoints' index folders.
        durable: Whether what is committed survives a loss of power; False is quicker.
        progress: counts indices; all at once, when the last is done.

    Raises:
        InputError: There is no index, a writer is at work on it, or the disk is full.
        CorruptIndexError: It is damaged.
    """
    with progress.stage("compact", unit="indices") as bar:
        _core.compact(os.fspath(path), durable)
        bar.advance(len(list(_indices(Path(path)))))


def _indices(path: Path) -> Iterator[Path]:
    """The index in a folder, or those of the hookpoints in it."""
    folders = [path] if (path / "manifest.json").is_file() else sorted(path.glob("*/"))
    return (folder for folder in folders if (folder / "manifest.json").is_file())
