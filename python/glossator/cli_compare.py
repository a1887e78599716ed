"""`glossator compare`: two runs, or two explainers, judges or protocols of one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from glossator.cli_options import examples
from glossator.errors import InputError
from glossator.runs import Run
from glossator.score.calibration import Calibration
from glossator.score.compare import Comparison, compare

__all__ = ["EPILOG", "compare_command"]

EPILOG = examples(
    "glossator compare run other-run",
    "glossator compare delimited cot --by explainer --run run",
    "glossator compare run other-run --explainer delimited --out tables",
)

_ALPHA = 0.05
_TABLES = ("means", "latents", "one_sided")


def compare_command(
    a: Annotated[str, typer.Argument(metavar="A", help="A run; with --by a name in RUN.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    by: Annotated[
        Literal["explainer", "judge", "protocol"] | None,
        typer.Option(help="What A and B are names of, in one run."),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="That run, with --by.")
    ] = None,
    explainer: Annotated[
        str | None, typer.Option(help="Of both sides: whose explanations.")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Of both sides: whose verdicts.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Of both sides: how asked, by id or preset.")
    ] = None,
    calibration_a: Annotated[
        Path | None,
        typer.Option(help="Answers of A's judge with `gold` and `answer`: Parquet or CSV."),
    ] = None,
    calibration_b: Annotated[Path | None, typer.Option(help="The same of B's judge.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the tables there, as Parquet.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, unrounded.")] = False,
) -> None:
    """Which of two explains, or judges, better: on the latents and examples that both have.

    The difference of the means over latents has a bootstrap over latents. Of each latent McNemar's
    test says whether one is right where the other is not; q-values are over all latents.
    """
    if (by is None) != (run_dir is None):
        raise InputError("--by and --run go together: names of what, and in which run")
    sides = {"explainer": (explainer,) * 2, "judge": (judge,) * 2, "protocol": (protocol,) * 2}
    if by is not None:
        if sides[by][0] is not None:
            raise InputError(f"--{by}: A and B name it with --by {by}; leave one out")
        sides[by] = (a, b)
    paths = (Path(a), Path(b)) if run_dir is None else (run_dir, run_dir)
    with Run.open(paths[0]) as one, Run.open(paths[1]) as other:
        found = compare(
            one,
            other,
            explainers=sides["explainer"],
            judges=sides["judge"],
            protocols=sides["protocol"],
            calibrations=(_calibration(calibration_a), _calibration(calibration_b)),
        )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name in _TABLES:
            pa.parquet.write_table(getattr(found, name), out / f"{name}.parquet")
    if as_json:
        said = {
            name: getattr(found, name).to_pylist() for name in ("means", "latents", "one_sided")
        }
        print(json.dumps(said, indent=2, ensure_ascii=False))
        return
    console = Console(width=max(Console().width, 140))
    console.print(_means(found, a, b))
    for line in _lines(found, a, b):
        console.print(Text(line))


def _calibration(path: Path | None) -> Calibration | None:
    if path is None:
        return None
    try:
        read = pa.csv.read_csv if path.suffix == ".csv" else pa.parquet.read_table
        return Calibration.of(read(path))
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: no table of Parquet or CSV ({error})") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _means(found: Comparison, a: str, b: str) -> Table:
    table = Table(
        title=f"A: {a}   B: {b}   means over the latents that both have",
        box=None,
        pad_edge=False,
        header_style="dim",
        title_justify="left",
    )
    table.add_column("scorer, figure")
    names = ("A", "B", "A - B (95 %)", "latents", "A's, B's only", "no score", "missing")
    for name in (*names, "Spearman (95 %)"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.means.to_pylist():
        table.add_row(
            Text(f"{row['scorer']}, {row['metric'].replace('_', ' ')}"),
            _number(row["a"]),
            _number(row["b"]),
            _interval(row["difference"], row["low"], row["high"], "+.3f"),
            f"{row['latents']:,}",
            f"{row['only_a']:,} / {row['only_b']:,}",
            f"{row['refused_a']:,} / {row['refused_b']:,}",
            f"{row['missing_a']:,} / {row['missing_b']:,}",
            _interval(row["spearman"], row["spearman_low"], row["spearman_high"], ".2f"),
        )
    return table


def _lines(found: Comparison, a: str, b: str) -> list[str]:
    """McNemar's test by scorer, and what the judges' own errors hide."""
    lines = []
    latents = found.latents.to_pylist()
    for scorer in sorted({row["scorer"] for row in latents}):
        rows = [row for row in latents if row["scorer"] == scorer]
        apart = [row for row in rows if row["q_value"] <= _ALPHA]
        better = sum(row["only_a"] > row["only_b"] for row in apart)
        lines.append(
            f"{scorer}: of {len(rows):,} latents with common examples A is right more often for "
            f"{better:,}, B for {len(apart) - better:,} (McNemar, q ≤ {_ALPHA})"
        )
    for row in found.means.to_pylist():
        for name, label in (("a", a), ("b", b)):
            value, low, high = (row[f"corrected_{name}{end}"] for end in ("", "_low", "_high"))
            if value is not None:
                lines.append(
                    f"{row['scorer']}, {row['metric'].replace('_', ' ')} of {label} without its "
                    f"judge's errors: {_interval(value, low, high, '.3f')}"
                )
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(value: Any, low: Any, high: Any, form: str) -> str:  # noqa: ANN401 - float or None
    if value is None:
        return ""
    ends = "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"
    return f"{value:{form}}{ends}"
