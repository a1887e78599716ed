"""The command `glossator neighbours`: which latents point where another one points.

glossator neighbours saes/h.6 -k 10 --out neighbours.parquet
glossator neighbours saes/h.6 --index run/index --latents 3,17
glossator neighbours saes/h.6 saes/h.7 -k 1
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from glossator.cli_options import examples, parse_latents
from glossator.config import only
from glossator.errors import InputError
from glossator.index import Index
from glossator.neighbour_table import COUNTED, pair_table, write_pairs
from glossator.neighbours import (
    NO_NEIGHBOUR,
    RELATIONS,
    Neighbours,
    coder_hash_of,
    decoder_rows,
    neighbours,
    refuse_other_coder,
)
from glossator.progress import reporter
from glossator.runs import Run

__all__ = ["EPILOG", "neighbours_command"]

_WIDTH = 120
"""Columns of a terminal that the table may take, wherever it goes."""

EPILOG = examples(
    "glossator neighbours saes/h.6",
    "glossator neighbours saes/h.6 --index run/index --latents 3,17",
    "glossator neighbours saes/h.6 --index run/index -k 32 --out neighbours.parquet",
    "glossator neighbours clt --hookpoint W_enc_3 --writes-to blocks.5.hook_mlp_out",
    "glossator neighbours old.safetensors new.safetensors --tensor W_dec -k 1 --out match.parquet",
)


def _opened(
    path: Path, tensor: str | None, transpose: bool, hookpoint: str | None, writes_to: str | None
) -> Any:  # noqa: ANN401 - a coder or rows
    """What `neighbours` takes: a coder, or rows."""
    if path.suffix == ".npy":
        try:
            rows: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            line = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: cannot be read as an array ({line})") from error
    elif path.suffix == ".safetensors" and writes_to is None:
        rows = _tensor(path, tensor)
    elif (path / "run.db").is_file():
        return _coder_of_run(path)
    else:
        if tensor is not None or transpose:
            raise InputError(f"{path}: `--tensor` and `--transpose` are for files of tensors")
        return _coder(str(path), hookpoint)
    return rows.T if transpose else rows


def _coder(path: str, hookpoint: str | None = None) -> Any:  # noqa: ANN401
    try:
        from glossator.coders import load_coder
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    return load_coder(path, hookpoint)


def _coder_of_run(path: Path) -> Any:  # noqa: ANN401
    """The coder that a run was given, or the one that it trained."""
    with Run.open(path) as run:
        given = only(run.config.coder.path)
        hookpoint = only(run.config.subject.hookpoint)
        trained = str(run.stages().get("harvest", {}).get("coder", {}).get("source", ""))
    if given is not None:
        return _coder(given, hookpoint)
    folder = trained.partition("`")[2].rpartition("`")[0]
    if not folder:
        raise InputError(f"{path}: has no coder yet; run `glossator harvest` on it first")
    return _coder(folder)


def _tensor(path: Path, name: str | None) -> Any:  # noqa: ANN401
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    try:
        with safe_open(path, framework="pt") as file:
            every = file.keys()
            names = sorted(key for key in every if len(file.get_slice(key).get_shape()) == 2)
            if name is None and len(names) == 1:
                (name,) = names
                if "enc" in name.lower():
                    raise InputError(
                        f"{path}: its only matrix is `{name}`, by its name an encoder's; name the "
                        f"coder's folder, or this one with --tensor {name}"
                    )
            if name is None or name not in names:
                said = "name one with --tensor" if name is None else f"no matrix `{name}`"
                raise InputError(f"{path}: {said}; its matrices are `{'`, `'.join(names)}`")
            return file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        line = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read as safetensors ({line})") from error
    except ModuleNotFoundError as error:
        raise _missing(error) from error


def _missing(error: ModuleNotFoundError) -> InputError:
    return InputError(
        f"neighbours: the package `{error.name}` is not installed; "
        "run `pip install 'glossator[models]'`"
    )


def neighbours_command(
    decoder: Annotated[
        Path,
        typer.Argument(
            metavar="DECODER",
            help="A coder's folder, a run, or a .npy or .safetensors file with a row per latent.",
        ),
    ],
    other: Annotated[
        Path | None,
        typer.Argument(metavar="OTHER", help="A second one: its latents are the neighbours."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Neighbours of each latent.")] = 10,
    index: Annotated[
        Path | None,
        typer.Option(help="The coder's index: adds how often each pair is active together."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write every pair to this Parquet file.")
    ] = None,
    latents: Annotated[
        str | None, typer.Option(help="Show the neighbours of these: ids (3,17,40-49) or a file.")
    ] = None,
    tensor: Annotated[
        str | None, typer.Option(help="Name of the matrix in a .safetensors file.")
    ] = None,
    transpose: Annotated[
        bool, typer.Option("--transpose", help="The file has a column per latent, not a row.")
    ] = False,
    hookpoint: Annotated[
        str | None, typer.Option(help="Which coder of a folder that holds several.")
    ] = None,
    writes_to: Annotated[
        str | None,
        typer.Option(
            metavar="HOOKPOINT",
            help="Of a cross-layer coder: take the decoder for this place, not the first.",
        ),
    ] = None,
) -> None:
    """Find the latents whose decoder directions lie nearest to each latent's, exactly.

    Shows a summary, or a table for --latents; --out writes all pairs.
    """
    if other is not None and index is not None:
        raise InputError("--index: co-activation is counted within one coder; give one DECODER")
    shown = parse_latents(latents)
    opened = partial(
        _opened, tensor=tensor, transpose=transpose, hookpoint=hookpoint, writes_to=writes_to
    )
    first = opened(decoder)
    n_latents = len(getattr(first, "decoder", first))
    if shown and max(shown) >= n_latents:
        raise InputError(f"--latents: {max(shown)} is not there; the decoder has {n_latents}")
    counted = None if index is None else Index.open(index)
    if counted is not None:
        refuse_other_coder(counted, coder_hash_of(first), n_latents)
    progress = reporter()
    facts: dict[str, str] = {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        if other is None:
            near = Neighbours.of(first, k, writes_to=writes_to, progress=progress)
        else:
            second = opened(other)
            (rows, name), (others, _) = (decoder_rows(of, writes_to) for of in (first, second))
            ids, cosines = neighbours(rows, others, k=k, progress=progress)
            near = Neighbours(ids, cosines, coder_hash_of(first), name)
            facts = {"other_hash": coder_hash_of(second), "decoder": name}
    if counted is not None:
        near = near.with_index(counted)
    if out is not None:
        if other is None:
            near.write(out)
        else:
            facts["coder_hash"] = near.coder_hash
            write_pairs(pair_table(near.ids, near.cosines, facts=facts), out)
    console = Console()
    if shown:
        # A table that a narrow terminal wraps says more than one with its figures cut off.
        Console(width=max(console.width, _WIDTH)).print(_table(near, shown))
    elif out is None:
        console.print(_summary(near))
    for warning in said:
        print(warning.message)
    several = len(getattr(first, "decoders", ()))
    if several > 1:
        print(f"by the decoder that writes to {near.decoder}, one of {several}; see --writes-to")
    if out is not None:
        print(out)


def _table(near: Neighbours, latents: tuple[int, ...]) -> Table:
    """Each latent's neighbours, the nearest first."""
    counted = near.coactivation
    table = Table(box=None, pad_edge=False, header_style="dim")
    names = ["latent", "rank", "neighbour", "cosine"]
    if counted is not None:
        names += [*COUNTED, "relation"]
    for name in names:
        table.add_column(name, justify="left" if name == "relation" else "right", no_wrap=True)
    for latent in latents:
        for rank, neighbour in enumerate(near.ids[latent].tolist()):
            if neighbour == NO_NEIGHBOUR:
                continue
            at = latent, rank
            row = [str(latent), str(rank + 1), str(neighbour), f"{near.cosines[at]:.3f}"]
            if counted is not None and near.relation is not None:
                row.append(f"{counted.both[at]:,}")
                figures = (getattr(counted, column)[at] for column in COUNTED[1:])
                row += ["" if np.isnan(figure) else f"{figure:.3f}" for figure in figures]
                row.append(RELATIONS[near.relation[at]])
            table.add_row(*row)
    return table


def _summary(near: Neighbours) -> Table:
    """How near the nearest are, and how many pairs are what."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    first = near.cosines[:, 0]
    first = first[~np.isnan(first)]
    pairs = near.ids != NO_NEIGHBOUR
    table.add_row("latents", f"{near.n_latents:,}, {len(first):,} with neighbours")
    if len(first):
        low, middle, high = np.percentile(first, [25, 50, 75]).tolist()
        table.add_row("nearest", f"median cosine {middle:.3f}, quartiles {low:.3f} and {high:.3f}")
    table.add_row("pairs", f"{int(pairs.sum()):,}, up to {near.k} for each latent")
    for name, count in near.relation_counts().items():
        table.add_row(name, f"{count:,}")
    return table
