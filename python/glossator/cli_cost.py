"""`glossator cost`: what a run's words cost, and what they would cost for a million latents."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from glossator.cli_options import examples
from glossator.cost import PRICES, Cost, Method, Prices, costs, load_prices, methods
from glossator.errors import InputError
from glossator.runs import Run

__all__ = ["EPILOG", "cost_command"]

EPILOG = examples(
    "glossator cost run",
    "glossator cost run --write-prices prices.toml",
    "glossator cost run --prices prices.toml",
    "glossator cost run --json",
)


def cost_command(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    prices: Annotated[
        Path | None, typer.Option(help="A TOML file of prices, in place of the package's.")
    ] = None,
    write_prices: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the package's prices there, to be edited."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, unrounded.")] = False,
) -> None:
    """Tokens and seconds of each explainer and scorer, and dollars per million latents.

    From the run's ledger, and a dated file of prices: of providers by the token, of machines by the
    hour. A latent's cost grows with the verdicts asked for: each line says how many it buys.
    """
    if write_prices is not None:
        _write_prices(write_prices)
        print(write_prices)
        return
    known = load_prices(prices or PRICES)
    with Run.open(run_dir) as run:
        spent = methods(run.table("ledger"))
    lines = costs(spent, known)
    if as_json:
        said = {
            "date": known.date.isoformat(),
            "methods": [asdict(one) for one in spent],
            "per_million_latents": [asdict(line) for line in lines],
        }
        print(json.dumps(said, indent=2, ensure_ascii=False))
        return
    # In a pipe rich would squeeze the tables into 80 columns.
    console = Console(width=max(Console().width, 120))
    if not spent:
        console.print("no language model was asked: rules cost the seconds of `glossator inspect`")
        return
    console.print(_spent_table(spent))
    console.print()
    console.print(_cost_table(spent, lines, known))


def _write_prices(path: Path) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(PRICES.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise InputError(f"{path}: is there already; name another file") from error


def _spent_table(spent: list[Method]) -> Table:
    table = Table(
        title="For one latent: mean ± standard deviation over latents",
        box=None,
        pad_edge=False,
        header_style="dim",
        title_justify="left",
    )
    table.add_column("method")
    names = ("latents", "requests", "verdicts", "prompt tokens", "unique", "output", "seconds")
    for name in names:
        table.add_column(name, justify="right")
    for method in spent:
        seconds = f"{method.seconds.mean:,.2f}"
        if method.seconds.deviation is not None:
            seconds += f" ± {method.seconds.deviation:,.2f}"
        table.add_row(
            Text(method.name),
            f"{method.latents:,}",
            f"{method.requests.mean:,.1f}",
            f"{method.verdicts.mean:,.1f}",
            f"{method.prompt.mean:,.1f}",
            str(method.unique),
            str(method.completion),
            seconds,
        )
    return table


def _cost_table(spent: list[Method], lines: list[Cost], prices: Prices) -> Table:
    table = Table(
        title=f"For a million latents, US dollars; prices of {prices.date.isoformat()}",
        box=None,
        pad_edge=False,
        header_style="dim",
        title_justify="left",
    )
    table.add_column("price")
    for method in spent:
        verdicts = f"{method.verdicts.mean:,.0f} verdict{'s' * (method.verdicts.mean != 1)} each"
        table.add_column(Text(f"{method.name}\n{verdicts}"), justify="right")
    table.add_column("all", justify="right")
    for name in dict.fromkeys(line.price for line in lines):
        row = [line for line in lines if line.price == name]
        cells = [f"{line.dollars:,.0f}" for line in row]
        total = f"{sum(line.dollars for line in row):,.0f}"
        hours = [line.hours for line in row if line.hours is not None]
        shown = f"{name} ({sum(hours):,.1f} hours)" if hours else name
        table.add_row(Text(shown), *cells, total)
    return table
