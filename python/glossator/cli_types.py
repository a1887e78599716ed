"""The command `glossator types`: what can be said of each latent without a language model.

glossator types run
glossator types layers/3/index layers/4/index --plot types.svg
glossator types run/index --out types.parquet --json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from glossator.cli_options import examples
from glossator.errors import InputError
from glossator.index import Index
from glossator.latent_types import TYPES, latent_types
from glossator.neighbours import Neighbours
from glossator.runs import Run
from glossator.type_shares import type_shares, write_plot, write_types

__all__ = ["EPILOG", "types_command"]

EPILOG = examples(
    "glossator types run",
    "glossator types layers/3/index layers/4/index --plot types.svg",
    "glossator types run/index --neighbours neighbours.parquet --out types.parquet",
)


def types_command(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Runs or indices, one for each hookpoint."),
    ],
    neighbours: Annotated[
        Path | None,
        typer.Option(
            help="Of one index: what `glossator neighbours --out` wrote; finds duplicates."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write every figure to this Parquet file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the shares by hookpoint to this SVG file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Tell each latent's type without a language model, and the share of each type.

    Duplicates are looked for where decoder neighbours are known: in a run, or with --neighbours.
    """
    if neighbours is not None and len(paths) > 1:
        raise InputError("--neighbours: is of one index; name one PATH")
    kinds: dict[str, dict[str, Any]] = {}
    for path in paths:
        index, near = _opened(path, neighbours)
        hookpoint = index.attributes.get("hookpoint") or str(path)
        if hookpoint in kinds:
            # Two coders of one hookpoint are told apart by where they are.
            hookpoint = f"{hookpoint} ({path})"
        kinds[hookpoint] = latent_types(index, neighbours=near)
    shares = type_shares(kinds)
    if out is not None:
        write_types(kinds, out)
    if plot is not None:
        write_plot(shares, plot)
    if as_json:
        print(json.dumps(shares.to_pylist(), indent=2, ensure_ascii=False))
        return
    Console().print(_table(shares))
    for written in (out, plot):
        if written is not None:
            print(written)


def _opened(path: Path, neighbours: Path | None) -> tuple[Index, Neighbours | None]:
    near = None if neighbours is None else Neighbours.read(neighbours)
    if not (path / "run.db").is_file():
        return Index.open(path), near
    with Run.open(path) as run:
        return run.index, run.neighbours if near is None else near


def _table(shares: pa.Table) -> Table:
    """A row for each hookpoint, a column for each type."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("hookpoint", overflow="fold")
    for kind in TYPES:
        table.add_column(kind, justify="right")
    rows: dict[str, list[str]] = {}
    for row in shares.to_pylist():
        rows.setdefault(row["hookpoint"], []).append(
            f"{row['latents']:,}\n{row['share']:.1%}" if row["latents"] else "0"
        )
    for hookpoint, cells in rows.items():
        table.add_row(hookpoint, *cells)
    return table
