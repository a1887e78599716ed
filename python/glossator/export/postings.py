"""The postings of an index as one Parquet file: a row for every activation.

    from glossator.export.postings import export_postings

    export_postings(index, "postings.parquet")            # of every latent
    export_postings(index, "few.parquet", [3, 17, 4_000])

Rows are sorted by latent, then by position, and row groups say which latents they hold: who asks
for one latent reads little of the file. The file's metadata say what the activations are worth
(`glossator.precision`) and of which index they are (`glossator.index_hash`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from glossator.arrays import flat_ids
from glossator.errors import InputError
from glossator.folders import new_file
from glossator.progress import SILENT, Bar, Progress

if TYPE_CHECKING:
    from glossator.index import Index

__all__ = ["POSTINGS", "export_postings"]

POSTINGS = pa.schema(
    [
        ("latent", pa.uint32()),
        ("context", pa.uint64()),
        ("offset", pa.uint32()),
        ("document", pa.uint64()),
        ("activation", pa.float32()),
    ]
)
"""The columns: context and offset of the token, its document, and the activation there."""

_ROWS = 1 << 18
"""Rows of a row group; what is held in memory besides the postings of one latent."""
_TOKENS = 1 << 20
"""Tokens whose documents are looked at together."""


class _Documents:
    """The document of any position: 16 bytes for each stretch of one document."""

    def __init__(self, index: Index) -> None:
        length = index.context_length
        starts, ids = [], []
        first, end = index.first_context, index.first_context + index.n_contexts
        step = max(1, _TOKENS // length)
        for context in range(first, end, step):
            several = np.arange(context, min(end, context + step), dtype=np.uint64)
            _, documents, _ = index.contexts(several)
            flat = documents.reshape(-1)
            changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
            places = np.concatenate([[0], changes])
            starts.append(places.astype(np.uint64) + np.uint64(context * length))
            ids.append(flat[places])
        self._starts = np.concatenate(starts) if starts else np.zeros(0, np.uint64)
        self._ids = np.concatenate(ids) if ids else np.zeros(0, np.uint64)

    def of(self, positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        return self._ids[np.searchsorted(self._starts, positions, side="right") - 1]


def _groups(index: Index, latents: npt.NDArray[np.uint32], bar: Bar) -> Iterator[pa.RecordBatch]:
    """The rows, `_ROWS` at a time."""
    documents, length = _Documents(index), np.uint64(index.context_length)
    held: list[list[npt.NDArray[np.generic]]] = []
    rows = 0

    def batch() -> pa.RecordBatch:
        columns = [np.concatenate(parts) for parts in zip(*held, strict=True)]
        return pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=POSTINGS)

    for latent in latents.tolist():
        positions, activations = index.postings(latent)
        at = 0
        while at < len(positions):
            part = slice(at, at + _ROWS - rows)
            at, where = part.stop, positions[part]
            held.append(
                [
                    np.full(len(where), latent, np.uint32),
                    where // length,
                    (where % length).astype(np.uint32),
                    documents.of(where),
                    activations[part],
                ]
            )
            rows += len(where)
            bar.advance(len(where))
            if rows == _ROWS:
                yield batch()
                held, rows = [], 0
    if rows:
        yield batch()


def export_postings(
    index: Index,
    path: str | os.PathLike[str],
    latents: npt.ArrayLike | None = None,
    *,
    progress: Progress = SILENT,
) -> Path:
    """Write the postings of some latents as Parquet (zstd), sorted by latent and position.

    Holds the postings of one latent, one row group, and 16 bytes for each stretch of one document.

    Args:
        index: the index.
        path: the file. One that is there is replaced when the new one is complete.
        latents: [n] latent ids in any order; all of them where it is None.
        progress: shows how many postings are written.

    Returns:
        The file.

    Raises:
        InputError: The index has no such latent, or the file cannot be written.
        CorruptIndexError: The index is damaged; what stood at `path` stays.
    """
    path = Path(path)
    chosen = np.arange(index.n_latents, dtype=np.uint32)
    if latents is not None:
        chosen = np.unique(flat_ids("latents", latents, np.uint32))
        if len(chosen) and chosen[-1] >= index.n_latents:
            raise InputError(f"latent {chosen[-1]}: the index has {index.n_latents} latents")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    facts = {
        "precision": index.precision,
        "index_hash": index.hash,
        "hookpoint": index.attributes.get("hookpoint", ""),
        "n_latents": index.n_latents,
        "n_tokens": index.n_tokens,
        "context_length": index.context_length,
    }
    named = {f"glossator.{name}": str(fact) for name, fact in facts.items()}
    total = int(index.counts()[chosen].sum())
    with (
        new_file(path) as file,
        progress.stage("export", total, "postings") as bar,
        pq.ParquetWriter(
            file,
            POSTINGS.with_metadata(named),
            compression="zstd",
            use_dictionary=["latent", "offset", "document", "activation"],
            column_encoding={"context": "DELTA_BINARY_PACKED"},
            sorting_columns=[pq.SortingColumn(at) for at in range(3)],
        ) as writer,
    ):
        for group in _groups(index, chosen, bar):
            writer.write_batch(group, row_group_size=_ROWS)
    return path
