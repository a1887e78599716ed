"""The tables of a run as Parquet, one file a table.

    from glossator.export import export_tables

    with Run.open("run") as run:
        export_tables(run, Path("tables"))    # tables/latents.parquet, tables/scores.parquet, …

Columns and types are those of `glossator.records.TABLES`. What is missing is null, and no figure is
NaN. What the activations of examples are worth stands in the metadata of their file,
`glossator.precision`. The text of an example is found here from its tokens: a run stores positions
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from glossator.errors import InputError
from glossator.folders import new_file
from glossator.records import TABLES

__all__ = ["Tables", "Text", "export_tables"]

_BATCH = 16_384


class Text(Protocol):
    """What the export asks of a tokenizer: `glossator.text.TokenText` has it."""

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """One string for each token, which together are the text."""


class Tables(Protocol):
    """What the export asks of a run: `glossator.pipeline.Run` has it."""

    @property
    def text(self) -> Text:
        """The texts of the tokens of its examples."""

    @property
    def precision(self) -> str | None:
        """Of the activations of its examples: `bf16`, or `code, 1/32`; None if not known."""

    def table(self, name: str) -> pa.Table:
        """A table of `TABLES`, by name."""


def _resolved(examples: pa.Table, run: Tables) -> pa.Table:
    """The examples with their text; one that has a text keeps it."""
    at = examples.schema.get_field_index("text")
    missing = pc.and_(pc.is_null(examples["text"]), pc.is_valid(examples["tokens"]))
    if not pc.any(missing, min_count=0).as_py():
        return examples
    texts: list[str | None] = []
    for batch in examples.select(["tokens", "text"]).to_batches(max_chunksize=_BATCH):
        texts.extend(
            # A lone surrogate cannot be stored as UTF-8.
            "".join(run.text.pieces(tokens)).encode("utf-8", "replace").decode("utf-8")
            if text is None and tokens is not None
            else text
            for tokens, text in zip(
                batch.column("tokens").to_pylist(), batch.column("text").to_pylist(), strict=True
            )
        )
    field = examples.schema.field(at)
    return examples.set_column(at, field, pa.array(texts, field.type))


def _without_nan(table: pa.Table) -> pa.Table:
    """Null where a float column holds NaN: a figure that is not there has one spelling."""
    for at, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column = table.column(at)
            clean = pc.if_else(pc.is_nan(column), pa.scalar(None, field.type), column)
            table = table.set_column(at, field, clean)
    return table


def _checked(name: str, table: pa.Table) -> pa.Table:
    schema = TABLES[name]
    try:
        return table.select(schema.names).cast(schema)
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"table {name}: its columns are not those of this version ({error}); "
            "export with the version that wrote the run"
        ) from error


def _prepare(out: Path) -> None:
    """Make the folder, or see that it holds an export and nothing else."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = {f"{name}.parquet" for name in TABLES}
        foreign = sorted(
            entry.name
            for entry in out.iterdir()
            if entry.name not in names and entry.name not in {f".{name}.tmp" for name in names}
        )
    except OSError as error:
        raise InputError(f"{out}: cannot be used ({error.strerror})") from error
    if foreign:
        raise InputError(f"{out}: holds `{foreign[0]}`, which is no exported table; name another")


def _write(table: pa.Table, path: Path) -> None:
    """A reader sees the old file or the new one."""
    with new_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def export_tables(run: Tables, out: Path) -> list[Path]:
    """Write every table of a run as Parquet (zstd), an empty one too.

    Args:
        run: the run.
        out: a folder, made if it is not there. An earlier export in it is replaced, file by file.

    Returns:
        The files, in the order of `TABLES`.

    Raises:
        InputError: the folder holds something else or cannot be written, or a table of the run has
            other columns.
    """
    out = Path(out)
    _prepare(out)
    paths = []
    for name in TABLES:
        table = _checked(name, run.table(name))
        if name == "examples":
            table = _resolved(table, run)
        table = _without_nan(table)
        if name == "examples" and run.precision is not None:
            table = table.replace_schema_metadata({"glossator.precision": run.precision})
        path = out / f"{name}.parquet"
        _write(table, path)
        paths.append(path)
    return paths
