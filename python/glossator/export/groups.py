"""Parquet files written as a stream, in row groups of a size that readers like.

with grouped(path, schema) as groups:
    groups.write(batch)  # of any number of rows
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["Groups", "grouped"]

Rows: TypeAlias = "pa.RecordBatch | pa.Table"

_BYTES = 1 << 25
"""Of a row group before it is compressed; what is held."""


class Groups:
    """A Parquet file that is being written.

    Attributes:
        rows: how many there are so far.
    """

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self.rows = 0
        self._writer = writer
        self._held: list[Rows] = []
        self._bytes = 0

    def write(self, rows: Rows) -> None:
        """Add rows of the file's schema."""
        self.rows += rows.num_rows
        self._held.append(rows)
        self._bytes += rows.nbytes
        if self._bytes >= _BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is held as a row group."""
        if any(rows.num_rows for rows in self._held):
            tables = [
                pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
                for rows in self._held
            ]
            self._writer.write_table(pa.concat_tables(tables), row_group_size=1 << 30)
        self._held, self._bytes = [], 0


@contextmanager
def grouped(path: Path, schema: pa.Schema) -> Iterator[Groups]:
    """A new file (zstd); one without rows has the schema alone."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        groups = Groups(writer)
        yield groups
        groups.flush()
