"""The command `glossator types`: what can be said of each latent without a language model.

glossator types run
glossator types layers/3/index layers/4/index --plot types.svg
glossator types run/index --out types.parquet --json
"""

from __future__ import annotations

import json
import sys
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
from glossator.logit_weights import LogitWeights, logit_directions
from glossator.neighbours import Neighbours, refuse_other_coder
from glossator.runs import Run, runs_in
from glossator.type_shares import read_types, type_shares, write_plot, write_types

__all__ = ["EPILOG", "types_command"]

EPILOG = examples(
    "glossator types run",
    "glossator types layers/3/index layers/4/index --plot types.svg",
    "glossator types run/index --coder saes/h.6 --subject gpt2",
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
    coder: Annotated[
        str | None,
        typer.Option(help="Of one index: its coder, a folder or name; finds duplicates."),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option(help="Of one index: the model, beside --coder; finds what latents say."),
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

    A run has told its types at harvest. In an index they are counted now: without the coder's
    directions and the model, no latent is a duplicate or says a token.
    """
    paths = [one for path in paths for one in runs_in(path) or [path]]
    more = {"--neighbours": neighbours, "--coder": coder, "--subject": subject}
    given = [name for name, value in more.items() if value is not None]
    if given and len(paths) > 1:
        raise InputError(f"{given[0]}: is of one index; name one PATH")
    if given and (paths[0] / "run.db").is_file():
        raise InputError(f"{given[0]}: {paths[0]} is a run, which knows its own; leave it out")
    if subject is not None and coder is None:
        raise InputError("--subject: what latents say takes their directions too; give --coder")
    kinds: dict[str, dict[str, Any]] = {}
    untold: dict[str, list[str]] = {}
    for path in paths:
        hookpoint, types, unknown = _told(path, neighbours, coder, subject)
        if hookpoint in kinds:
            # Two coders of one hookpoint are told apart by where they are.
            hookpoint = f"{hookpoint} ({path})"
        kinds[hookpoint] = types
        for what in unknown:
            untold.setdefault(what, []).append(hookpoint)
    shares = type_shares(kinds)
    if out is not None:
        write_types(kinds, out)
    if plot is not None:
        write_plot(shares, plot)
    for what, hookpoints in untold.items():
        print(f"{', '.join(hookpoints)}: {what}", file=sys.stderr)
    if as_json:
        print(json.dumps(shares.to_pylist(), indent=2, ensure_ascii=False))
        return
    Console().print(_table(shares))
    for written in (out, plot):
        if written is not None:
            print(written)


def _told(
    path: Path, neighbours: Path | None, coder: str | None, subject: str | None
) -> tuple[str, dict[str, Any], list[str]]:
    """The hookpoint, the types of its latents, and what could not be told of them."""
    if (path / "run.db").is_file() and (path / "types.parquet").is_file():
        ((hookpoint, types),) = read_types(path / "types.parquet").items()
        return hookpoint, types, []
    logits = None
    if (path / "run.db").is_file():
        with Run.open(path) as run:
            index, near = run.index, run.neighbours
    else:
        index = Index.open(path)
        near = None if neighbours is None else Neighbours.read(neighbours)
    decoder = None
    if coder is not None:
        decoder, logits = _directions(coder, subject, index)
    types = latent_types(index, decoder=decoder, neighbours=near, logits=logits)
    unknown = []
    if near is None and decoder is None:
        unknown.append("duplicates are not told: that takes a run, --neighbours or --coder")
    if logits is None:
        unknown.append("what latents say is not told: that takes a run, or --coder and --subject")
    return index.attributes.get("hookpoint") or str(path), types, unknown


def _directions(coder: str, subject: str | None, index: Index) -> tuple[Any, LogitWeights | None]:
    """The coder, and the logit weights of its latents where the model is given."""
    try:
        from glossator.coders import load_coder
        from glossator.subjects import load_subject
    except ModuleNotFoundError as error:
        raise InputError(
            f"types: the package `{error.name}` is not installed; "
            "run `pip install 'glossator[models]'`"
        ) from error
    loaded = load_coder(coder, index.attributes.get("hookpoint"))
    refuse_other_coder(index, loaded.hash, loaded.n_latents)
    if subject is None:
        return loaded, None
    model = load_subject(subject, loaded.hookpoint or index.attributes.get("hookpoint"))
    directions, unembedding = logit_directions(loaded), model.unembedding()
    if unembedding is None or unembedding.shape[1] != directions.shape[1]:
        raise InputError(
            f"--subject: `{subject}` has no output layer of width {directions.shape[1]}, which the "
            "coder writes; leave it out"
        )
    return loaded, LogitWeights.of(directions, unembedding)


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
