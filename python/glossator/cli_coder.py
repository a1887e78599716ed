"""The command of `glossator coder`: what was understood of somebody's sparse coder.

glossator coder inspect saes/layers.10
glossator coder inspect owner/name --hookpoint layers.10 --json
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from glossator.cli_options import examples, help_without_command
from glossator.shown import single_line

__all__ = ["app"]

app = typer.Typer(help="Look at a sparse coder: its format, its rule and its conventions.")


@app.callback(invoke_without_command=True)
def _coder(context: typer.Context) -> None:
    """Look at a sparse coder: its format, its rule and its conventions."""
    help_without_command(context)


@app.command(
    epilog=examples(
        "glossator coder inspect saes/layers.10",
        "glossator coder inspect owner/name --hookpoint layers.10 --json",
    )
)
def inspect(
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="A folder, a file, or a Hugging Face repository."),
    ],
    hookpoint: Annotated[
        str | None, typer.Option("--hookpoint", help="Which of several coders.")
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", help="Latents kept of a token, where the files say none.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Say what was understood of a coder's files, and what was settled without proof.

    Where a folder holds several coders, the error lists them.
    """
    from glossator.coders import load_coder

    said = load_coder(path, hookpoint, k=k).describe()
    if as_json:
        print(json.dumps(said, indent=2, ensure_ascii=False))
    else:
        _print(said, Console())


def _print(said: dict[str, Any], console: Console) -> None:
    declared = dict(said["declared"])
    warnings = declared.pop("warnings", [])
    norms = f"{said['decoder_norm_min']:.4g} to {said['decoder_norm_max']:.4g}"
    bias = "taken off the input" if said["input_bias"] else "none taken off the input"
    reads, writes = said["hookpoint"] or "unknown", said["hookpoint_out"] or "unknown"
    rows = {
        "coder": said["source"],
        "format": declared.pop("format", "unknown"),
        "rule": said["rule"],
        "latents": f"{said['n_latents']:,}",
        "reads": f"{reads}, {said['width']:,} numbers",
        "writes": f"{writes}, {said['width_out']:,} numbers",
        "normalization": said["normalization"],
        "bias": bias,
        "input scale": f"{said['input_scale']:.6g}",
        "output scale": f"{said['output_scale']:.6g}",
        "decoder norms": norms + (", divided out of activations" if said["decoder_scale"] else ""),
        "skip connection": "yes" if said["skip"] else "no",
        **({"writes also to": ", ".join(said["decoders"][1:])} if said["decoders"] else {}),
        **{f"declared {name}".replace("_", " "): str(value) for name, value in declared.items()},
        "hash": said["hash"],
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(name), Text(single_line(str(value))))
    for warning in warnings:
        table.add_row(Text("warning", style="yellow"), Text(single_line(warning)))
    console.print(table)
