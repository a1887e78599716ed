"""The commands of `glossator index`: what it holds, whether it is whole, parts into one, out of it.

glossator index inspect run/index
glossator index verify run/index
glossator index top run/index 17 --tokenizer run/tokenizer.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from glossator.cli_options import examples, help_without_command, parse_latents
from glossator.errors import InputError
from glossator.export.postings import export_postings
from glossator.index import Index, Top, compact, join
from glossator.progress import reporter
from glossator.shown import show_windows, single_line
from glossator.text import TokenText

__all__ = ["app"]

app = typer.Typer(help="Look at an index, check it, join, compact and export it.")

IndexDir = Annotated[Path, typer.Argument(metavar="PATH", help="The folder of an index.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Unfinished = Annotated[
    bool,
    typer.Option(
        "--unfinished", help="Take what is there of a build that has not reached its end."
    ),
]


def _opened(path: Path, *, unfinished: bool = False) -> Index:
    """The index at `path`; where it lies deeper, as in a run, the error says where."""
    try:
        return Index.open(path, unfinished=unfinished)
    except InputError as error:
        inner = sorted(path.glob("*/manifest.json"))
        if inner and not (path / "manifest.json").exists():
            names = "`, `".join(str(manifest.parent) for manifest in inner)
            raise InputError(f"{path}: is no index, but holds `{names}`; name that") from error
        raise


@app.callback(invoke_without_command=True)
def _index(context: typer.Context) -> None:
    """Look at an index, check it, join, compact and export it."""
    help_without_command(context)


# --- inspect -----------------------------------------------------------------------------------


def _print_description(said: dict[str, Any], console: Console) -> None:
    active, dead = said["latents"]["active"], said["latents"]["dead"]
    ended = said["first_context"] + said["n_contexts"]
    complete = "yes" if said["complete"] else f"no, committed up to context {ended:,}"
    contexts = (
        f"{said['n_contexts']:,} of {said['context_length']:,} tokens, "
        f"from {said['first_context']:,} on, in windows of {said['window']:,}"
    )
    segments = f"{len(said['segments']):,} of at most {said['segment_contexts']:,} contexts"
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (
        ("index", said["path"]),
        ("complete", complete),
        ("hash", said["hash"]),
        *said["attributes"].items(),
        ("activations", f"{said['nnz']:,} over {said['n_tokens']:,} tokens"),
        ("precision", said["precision"]),
        ("latents", f"{said['n_latents']:,}: {active:,} active, {dead:,} dead"),
        ("contexts", contexts),
        ("segments", segments),
        ("split seed", str(said["split_seed"])),
    ):
        table.add_row(Text(single_line(name)), Text(single_line(value)))
    console.print(table)
    sizes = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("file", "bytes", "bits a posting"):
        sizes.add_column(name, justify="left" if name == "file" else "right")
    for name, of in [*said["files"].items(), ("all", said)]:
        bits = of["bits_per_posting"]
        sizes.add_row(Text(name), f"{of['bytes']:,}", "" if bits is None else f"{bits:.3f}")
    console.print()
    console.print(sizes)


@app.command(
    epilog=examples(
        "glossator index inspect run/index",
        "glossator index inspect run/index --json",
    )
)
def inspect(path: IndexDir, as_json: Json = False) -> None:
    """Say what an index is: parameters, counts, precision, segments, and the size of its files.

    An index that is not finished is described as far as it is committed.
    """
    said = _opened(path, unfinished=True).describe()
    if as_json:
        print(json.dumps(said, indent=2, ensure_ascii=False))
    else:
        _print_description(said, Console())


# --- verify, join, compact, export -------------------------------------------------------------


@app.command(
    epilog=examples(
        "glossator index verify run/index",
        "glossator index verify run/index --unfinished",
    )
)
def verify(path: IndexDir, unfinished: Unfinished = False) -> None:
    """Compare the checksum of every file; name the first that differs, and exit with code 2."""
    index = _opened(path, unfinished=unfinished)
    segments = index.segments()
    index.verify(progress=reporter())
    files = sum(len(segment.files) for segment in segments)
    n_bytes = sum(segment.n_bytes for segment in segments)
    print(f"{path}: whole ({files:,} files, {n_bytes:,} bytes)")


@app.command(
    name="join",
    epilog=examples("glossator index join run/index part0 part1 part2"),
)
def join_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty folder.")],
    parts: Annotated[
        list[Path],
        typer.Argument(metavar="PART", help="Indices whose contexts follow one another."),
    ],
) -> None:
    """Join finished indices whose contexts follow one another; the parts stay as they are.

    Nothing is written again where the file system can give a file a second name. The folders may
    also be those of several hookpoints each.
    """
    join(parts, out, progress=reporter())
    print(out)


@app.command(name="compact", epilog=examples("glossator index compact run/index"))
def compact_command(path: IndexDir) -> None:
    """Merge partial segments, which joining and adding later leave behind.

    The index then has the bytes of one undisturbed build. It may be read meanwhile. The folder may
    also be that of several hookpoints.
    """
    compact(path, progress=reporter())
    print(path)


@app.command(
    epilog=examples(
        "glossator index export run/index postings.parquet",
        "glossator index export run/index few.parquet --latents 3,17,40-49",
    )
)
def export(
    path: IndexDir,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The Parquet file.")],
    latents: Annotated[
        str | None, typer.Option(help="Latents: ids (3,17,40-49) or a file of them; all if none.")
    ] = None,
    unfinished: Unfinished = False,
) -> None:
    """Write every activation as a row of a Parquet file, by latent and position.

    The file says what its activations are worth. One that is there is replaced when the new one is
    complete.
    """
    index = _opened(path, unfinished=unfinished)
    print(export_postings(index, out, parse_latents(latents), progress=reporter()))


# --- top ---------------------------------------------------------------------------------------


def _texts(index: Index, top: Top, text: TokenText) -> list[str]:
    """Each window on one line, its strongest token marked."""
    peaks = np.zeros(len(top.start), np.int64)
    for latent in np.unique(top.latent):
        rows = np.flatnonzero(top.latent == latent)
        values = index.activations(int(latent), top.start[rows], index.window)
        peaks[rows] = values.argmax(axis=1)
    shown = show_windows(top.start, index, text)
    rendered = (window.render((peak,)) for window, peak in zip(shown, peaks.tolist(), strict=True))
    # What the corpus holds must not steer the terminal.
    return ["".join(sign if sign.isprintable() else "\ufffd" for sign in line) for line in rendered]


def _rows(index: Index, top: Top, text: TokenText | None) -> list[dict[str, Any]]:
    """What is printed of each window."""
    columns = {
        "latent": top.latent.tolist(),
        "context": (top.start // np.uint64(index.context_length)).tolist(),
        "offset": (top.start % np.uint64(index.context_length)).tolist(),
        "activation": top.activation.tolist(),
        "exact": top.exact.tolist(),
    }
    if text is not None:
        columns["text"] = _texts(index, top, text)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _print_rows(index: Index, rows: list[dict[str, Any]], latents: tuple[int, ...]) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("latent", "context", "offset", "activation"):
        table.add_column(name, justify="right")
    if rows and "text" in rows[0]:
        table.add_column("text", overflow="fold")
    for row in rows:
        said = f"{'' if row['exact'] else '~'}{row['activation']:.4g}"
        cells = [str(row[name]) for name in ("latent", "context", "offset")]
        table.add_row(*cells, said, *([Text(row["text"])] if "text" in row else []))
    console = Console()
    console.print(table)
    silent = sorted(set(latents) - {row["latent"] for row in rows})
    console.print()
    if silent:
        console.print(Text(f"not active: {', '.join(map(str, silent))}"))
    exact = all(row["exact"] for row in rows)
    worth = "each exact in bf16" if exact else "exact in bf16, after ~ within 1/32"
    console.print(Text(f"activations: {worth}; precision of the index: {index.precision}"))


@app.command(
    epilog=examples(
        "glossator index top run/index 17",
        "glossator index top run/index 3 40-49 --number 5 --side score --json",
        "glossator index top run/index 17 --tokenizer run/tokenizer.json",
    )
)
def top(
    path: IndexDir,
    latents: Annotated[
        list[str], typer.Argument(metavar="LATENT", help="Ids and ranges (3 17 40-49).")
    ],
    number: Annotated[
        int, typer.Option("--number", "-n", min=1, help="Windows of each latent.")
    ] = 10,
    side: Annotated[
        Literal["explain", "score"] | None, typer.Option(help="Only windows of this side.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer.json: shows the text of the windows.")
    ] = None,
    unfinished: Unfinished = False,
    as_json: Json = False,
) -> None:
    """Show the strongest windows of some latents, and how exact the activations are.

    The first 200 of a side are in exact order; an activation after ~ is known within 1/32.
    """
    index = _opened(path, unfinished=unfinished)
    text = None if tokenizer is None else TokenText.open(tokenizer)
    named = [parse_latents(given, "LATENT") or () for given in latents]
    chosen = tuple(dict.fromkeys(latent for ids in named for latent in ids))
    rows = _rows(index, index.top(list(chosen), number, side), text)
    if as_json:
        said = {"path": index.path, "hash": index.hash, "precision": index.precision}
        print(json.dumps(said | {"windows": rows}, indent=2, ensure_ascii=False))
    else:
        _print_rows(index, rows, chosen)
