"""The tables of a run as Parquet, one file a table.

    from glossator.export import export_tables

    with Run.open("run") as run:
        export_tables(run, "tables")    # tables/latents.parquet, tables/scores.parquet, …

Columns and types are those of `glossator.records.TABLES`. What is missing is null, and no figure is
NaN. What the activations of examples are worth stands in the metadata of their file,
`glossator.precision`. The text of an example is found here from its tokens: a run stores positions
alone. Rows go from the database to the file a few thousand at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from glossator.export.groups import grouped
from glossator.export.places import absent, new_tree
from glossator.progress import SILENT, Progress
from glossator.records import TABLES

__all__ = ["Tables", "Text", "export_tables"]


class Text(Protocol):
    """What the export asks of a tokenizer: `glossator.text.TokenText` has it."""

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """One string for each token, which together are the text."""


class Tables(Protocol):
    """What the export asks of a run: `glossator.runs.Run` has it."""

    @property
    def text(self) -> Text:
        """The texts of the tokens of its examples."""

    @property
    def precision(self) -> str | None:
        """Of the activations of its examples: `bf16`, or `code, 1/32`; None if not known."""

    @property
    def store(self) -> Any:  # noqa: ANN401 - a `Store`, or what has its `batches` and `count`
        """Its tables."""


def export_tables(run: Tables, out: str | Path, *, progress: Progress = SILENT) -> list[Path]:
    """Write every table of a run as Parquet (zstd), an empty one too.

    Args:
        run: the run.
        out: a new folder.
        progress: counts rows.

    Returns:
        The files, in the order of `TABLES`.

    Raises:
        InputError: `out` is there already or cannot be written.
    """
    out = absent(out)
    total = sum(run.store.count(name) for name in TABLES)
    with new_tree(out) as scratch, progress.stage("export", total, "rows") as bar:
        for name, schema in TABLES.items():
            resolved = name == "examples"
            if resolved and run.precision is not None:
                schema = schema.with_metadata({"glossator.precision": run.precision})
            with grouped(scratch / f"{name}.parquet", schema) as groups:
                for batch in run.store.batches(name):
                    groups.write(_with_text(batch, run.text) if resolved else batch)
                    bar.advance(batch.num_rows)
    return [out / f"{name}.parquet" for name in TABLES]


def _with_text(examples: pa.RecordBatch, text: Text) -> pa.RecordBatch:
    """The examples with their text; one that has a text keeps it."""
    at = examples.schema.get_field_index("text")
    texts = [
        # A lone surrogate cannot be stored as UTF-8.
        "".join(text.pieces(tokens)).encode("utf-8", "replace").decode("utf-8")
        if known is None and tokens is not None
        else known
        for tokens, known in zip(
            examples.column("tokens").to_pylist(), examples.column(at).to_pylist(), strict=True
        )
    ]
    columns = examples.columns
    columns[at] = pa.array(texts, pa.string())
    return pa.RecordBatch.from_arrays(columns, schema=examples.schema)
