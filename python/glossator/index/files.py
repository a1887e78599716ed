"""Of which files does an index consist, and how large are they? What its manifest says.

for segment in read_segments("run/index", index.hash):
    print(segment.first_context, segment.nnz, sum(segment.files.values()))
sizes(segments, index.nnz)["segments/lists.bin"]["bytes"]
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from glossator.errors import InputError

__all__ = ["Segment", "bits_per_posting", "read_segments", "sizes"]

_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Segment:
    """A range of contexts that was written at once."""

    first_context: int
    """Number of its first context."""
    contexts: int
    """Number of its contexts."""
    n_tokens: int
    """Number of its unmasked tokens."""
    nnz: int
    """Number of its postings."""
    files: dict[str, int]
    """Bytes of each of its files, by path from the index folder."""

    @property
    def n_bytes(self) -> int:
        """Bytes of all its files, the text's too."""
        return sum(self.files.values())


def read_segments(path: str, expected: str) -> list[Segment]:
    """The segments of the index in a folder, in the order of their contexts.

    Args:
        path: the folder of an index that is open: its manifest has been checked.
        expected: the hash of that index.

    Raises:
        InputError: the manifest cannot be read, or is another one by now.
    """
    file = Path(path, _MANIFEST)
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        found = manifest["xxh3"]
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError):
        found = None
    if found != expected:
        raise InputError(f"the index `{path}` was changed since it was opened; open it again")
    return [
        Segment(
            first_context=segment["first_context"],
            contexts=segment["contexts"],
            n_tokens=segment["n_tokens"],
            nnz=segment["nnz"],
            files={name: record["bytes"] for name, record in segment["files"].items()},
        )
        for segment in manifest["index"]["segments"]
    ]


def sizes(segments: Iterable[Segment], nnz: int) -> dict[str, dict[str, Any]]:
    """Bytes of each kind of file over all segments, and bits for each of `nnz` postings.

    Returns:
        By kind, which is a path without the segment's folder (`segments/lists.bin`): `bytes`, and
        `bits_per_posting`, which is None where there is no posting.
    """
    found: dict[str, int] = {}
    for segment in segments:
        for name, size in segment.files.items():
            path = PurePosixPath(name)
            kind = str(path.parent.parent / path.name)
            found[kind] = found.get(kind, 0) + size
    return {
        kind: {"bytes": size, "bits_per_posting": bits_per_posting(size, nnz)}
        for kind, size in sorted(found.items())
    }


def bits_per_posting(n_bytes: int, nnz: int) -> float | None:
    """None where there is no posting."""
    return 8 * n_bytes / nnz if nnz else None
