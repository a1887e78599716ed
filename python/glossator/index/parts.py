"""How do parts become one index, and partial segments whole ones?

join(["run/part0", "run/part1"], "run/index")
compact("run/index")
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from glossator import _core

__all__ = ["compact", "join"]


def join(
    parts: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], *, durable: bool = True
) -> None:
    """Join finished indices whose contexts follow one another into a new one.

    Nothing is written again: files get a second name in `out`, and are copied where the file system
    cannot do that. The parts may come in any order and stay as they are. Parts that are folders of
    several hookpoints are joined hookpoint by hookpoint.

    Raises:
        InputError: Contexts are missing or in two parts, parameters differ, a part is not finished,
            or `out` holds something.
        CorruptIndexError: A part is damaged.
    """
    _core.join([os.fspath(part) for part in parts], os.fspath(out), durable)


def compact(path: str | os.PathLike[str], *, durable: bool = True) -> None:
    """Merge the partial segments that `join` and later additions leave, up to the grid of segments.

    The index then has the bytes of one undisturbed build. It may be read meanwhile, not written to.

    Raises:
        InputError: There is no index, a writer is at work on it, or the disk is full.
        CorruptIndexError: It is damaged.
    """
    _core.compact(os.fspath(path), durable)
