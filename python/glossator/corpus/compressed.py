"""Files that may be compressed, read as what is in them.

with opened(Path("rows.jsonl.zst")) as file:
    for line in lines(file, "rows.jsonl.zst"):
        ...
kind(Path("rows.jsonl.zst"))                 # ".jsonl"
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from glossator.errors import InputError

__all__ = ["kind", "lines", "opened"]

_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_LONGEST_LINE = 1 << 28
"""Bytes of a line, beyond which a file is taken for none of lines before memory ends."""


def kind(path: Path) -> str:
    """The suffix that says what a file holds: of `rows.jsonl.gz` it is `.jsonl`."""
    return Path(path.stem).suffix if path.suffix in _COMPRESSED else path.suffix


def opened(path: Path) -> BinaryIO:
    """The bytes of a file, decompressed where its last suffix is `.gz` or `.zst`.

    Raises:
        OSError: it cannot be opened; on reading, what is cut off or damaged.
    """
    if path.suffix not in _COMPRESSED:
        return path.open("rb")
    stream = pa.input_stream(str(path), compression=_COMPRESSED[path.suffix])
    return io.BufferedReader(cast(io.RawIOBase, stream))


def lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines of a file, each with its end.

    Raises:
        InputError: a line of more than 256 MiB; names the file and the line.
    """
    number = 0
    while line := file.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            raise InputError(
                f"corpus `{name}:{number}`: a line of more than {_LONGEST_LINE:,} bytes; "
                "JSONL has one object a line"
            )
        yield line
