"""Columns of the run's tables, as the figures need them.

need("verdicts", verdicts, ("truth", "answer"))
deciles = of_examples(verdicts, examples, "decile")       # one entry a verdict
prompts = codes(verdicts["prompt_id"])
score_table(rows)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glossator.errors import InputError
from glossator.records import TABLES, Score

__all__ = ["codes", "need", "of_examples", "score_table"]


def need(name: str, table: pa.Table, columns: tuple[str, ...]) -> None:
    """Refuse a table without some columns.

    Raises:
        InputError: names the column.
    """
    for column in columns:
        if column not in table.column_names:
            raise InputError(f"table `{name}`: column `{column}` is missing")


def of_examples(verdicts: pa.Table, examples: pa.Table, name: str) -> list[Any]:
    """A column of the examples, one entry a verdict."""
    known = dict(zip(examples["example_id"].to_pylist(), examples[name].to_pylist(), strict=True))
    try:
        return [known[key] for key in verdicts["example_id"].to_pylist()]
    except KeyError as error:
        raise InputError(f"table `examples`: `{error.args[0]}` is judged but not there") from error


def score_table(rows: list[Score]) -> pa.Table:
    """Records as the run's table `scores`."""
    return pa.Table.from_pylist([row.model_dump() for row in rows], schema=TABLES["scores"])


def codes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A number for each distinct value."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)
