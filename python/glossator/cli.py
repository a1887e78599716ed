"""The command line: every command is a few lines over a library function.

glossator demo
glossator run run.toml --out run
glossator inspect run
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.exceptions import TyperException

from glossator import (
    __version__,
    cli_coder,
    cli_compare,
    cli_cost,
    cli_export,
    cli_index,
    cli_neighbours,
    cli_types,
    demo,
    pipeline,
    report,
)
from glossator.cli_options import examples, help_without_command, parse_latents
from glossator.cli_settings import DATA, EXPLAIN, JUDGE, KEPT, SCORE, WHAT, settings, takes
from glossator.config import RunConfig, load_config
from glossator.errors import GlossatorError
from glossator.export import export_tables
from glossator.progress import reporter
from glossator.run_set import RunSet
from glossator.runs import Run
from glossator.shards import parse_shard

__all__ = ["app", "main"]

EXIT_COMPLETE, EXIT_INPUT, EXIT_MISSING, EXIT_INTERRUPTED = 0, 2, 3, 130

# Faults of the machine that no check foresees.
_MENDABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO),
)

app = typer.Typer(
    name="glossator",
    help="Explain and score every latent of a sparse autoencoder or transcoder.",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
export = typer.Typer(help="Write a run's results for other tools.", invoke_without_command=True)
app.add_typer(export, name="export")
app.add_typer(cli_coder.app, name="coder")
cli_export.add_exports(export)
app.add_typer(cli_export.import_app, name="import")
app.add_typer(cli_index.app, name="index")

RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
RunDirs = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run directory, or that of several hookpoints' runs."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The run directory; made if missing.")]


@contextmanager
def _opened(path: Path, options: dict[str, Any]) -> Iterator[tuple[RunSet, pipeline.Judging]]:
    """The runs with the settings that the options change, and the judge that they share."""
    with RunSet.open(path, write=True) as runs:
        for run in runs:
            run.configure(settings(run.config, options))
        with pipeline.Judging(runs.config, runs.path, reporter()) as judging:
            yield runs, judging


def _finish(runs: RunSet) -> None:
    if len(runs) > 1:
        report.print_set(runs, Console())
    else:
        report.print_closing(runs.runs[0], Console())
    missing, allowed = max(map(pipeline.missing_share, runs)), runs.config.max_failed
    if missing > allowed:
        print(
            f"glossator: {missing:.1%} of the explanations or verdicts are missing, more than "
            f"--max-failed {allowed:.1%}; run the same command again to ask for them",
            file=sys.stderr,
        )
        raise typer.Exit(EXIT_MISSING)


def _inspect(runs: RunSet) -> None:
    if len(runs) > 1:
        report.print_set(runs, Console())
    else:
        report.print_inspection(runs.runs[0], Console())


@app.command(
    name="demo",
    epilog=examples(
        "glossator demo",
        "glossator demo --out runs/packages --corpus packages --tokens 1000000",
        "glossator demo --corpus notes.txt --corpus mail.jsonl --column body",
        "glossator demo --judge http://127.0.0.1:8000/v1 --judge-model NAME",
        "glossator demo --judge local",
    ),
)
@takes(DATA, KEPT, WHAT, JUDGE, EXPLAIN, SCORE)
def demo_command(options: dict[str, Any], out: Out = Path("run")) -> None:
    """The main job on embedded defaults: from plain text to an atlas of explained latents.

    Reads English prose that every Python carries, runs SmolLM2-135M over it, trains a TopK sparse
    autoencoder (kept for the next time), indexes every activation, explains each live latent by a
    rule, checks the rule on every held-out document, and writes one HTML file. Each of these an
    option replaces. Run again, it goes on where it was.
    """
    config = settings(demo.default_config(), options)
    with pipeline.run_each(config, out, progress=reporter()) as runs:
        _finish(runs)


@app.command(
    name="run",
    epilog=examples(
        "glossator run run.toml --out runs/layer6",
        "glossator run runs/layer6/config.toml --out runs/again",
        "glossator run run.toml --out runs/layer6 --judge http://127.0.0.1:8000/v1",
    ),
)
@takes(KEPT, WHAT, JUDGE, EXPLAIN, SCORE)
def run_command(
    options: dict[str, Any],
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Settings of the run.")],
    out: Out = Path("run"),
) -> None:
    """All stages as a TOML file says; options replace its fields. Resumes."""
    asked = settings(load_config(config), options)
    with pipeline.run_each(asked, out, progress=reporter()) as runs:
        _finish(runs)


@app.command(
    epilog=examples(
        "glossator harvest --out run --corpus web.parquet --subject gpt2 --coder saes/h.6",
        "glossator harvest --out run --corpus hf:NeelNanda/pile-10k --tokens 10000000",
        "glossator harvest --out layers --coder saes --hookpoint layers.3 --hookpoint layers.4",
        "glossator harvest --out shards/3 --coder saes/h.6 --shard 3/8",
    )
)
@takes(DATA, KEPT)
def harvest(
    options: dict[str, Any],
    out: Out = Path("run"),
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Part I of N alone, from 0/N on; then `glossator join`."),
    ] = None,
) -> None:
    """Corpus to index: one pass of the subject model encodes every latent. Resumes.

    With several hookpoints, OUT holds a run for each, made in the same pass.
    """
    part = None if shard is None else parse_shard(shard)
    with RunSet.create(settings(RunConfig(), options), out) as runs:
        pipeline.harvest_set(runs, shard=part, progress=reporter())
        _inspect(runs)


@app.command(
    epilog=examples("glossator join shards/0 shards/1 shards/2 --out run"),
)
def join(
    shards: Annotated[
        list[Path], typer.Argument(metavar="SHARDS...", help="What `harvest --shard` wrote.")
    ],
    out: Out = Path("run"),
) -> None:
    """Make one run of shards that were harvested apart; they stay as they are. Resumes."""
    with pipeline.join_stage(shards, out, progress=reporter()) as runs:
        _inspect(runs)


@app.command(
    epilog=examples(
        "glossator explain run",
        "glossator explain run --latents 3,17,40-49",
        "glossator explain run --judge http://127.0.0.1:8000/v1 --max-latents 200",
        "glossator explain run --judge http://127.0.0.1:8000/v1 --explainer delimited "
        "--explainer contrastive",
    )
)
@takes(WHAT, JUDGE, EXPLAIN)
def explain(options: dict[str, Any], run_dir: RunDirs) -> None:
    """Explain live latents: by rules, and by a language model where a judge is named."""
    with _opened(run_dir, options) as (runs, judging):
        for run in runs:
            pipeline.explain_stage(run, judging=judging, progress=reporter())
        _finish(runs)


@app.command(
    epilog=examples(
        "glossator score run",
        "glossator score run --judge http://127.0.0.1:8000/v1 --judge-model NAME",
        "glossator score run --judge http://127.0.0.1:8000/v1 --preset post --scorer detection",
    )
)
@takes(WHAT, JUDGE, SCORE)
def score(options: dict[str, Any], run_dir: RunDirs) -> None:
    """Score explanations: rules on all held-out documents; the rest by asking a judge."""
    with _opened(run_dir, options) as (runs, judging):
        for run in runs:
            pipeline.score_stage(run, judging=judging, progress=reporter())
        _finish(runs)


@app.command(epilog=examples("glossator atlas run", "glossator atlas run --latents 0-99"))
def atlas(
    run_dir: RunDirs,
    latents: Annotated[
        str | None, typer.Option(help="Latents whose pages the file holds: ids, or a file of them.")
    ] = None,
) -> None:
    """Write the run's page, RUN/atlas.html: one self-contained HTML file."""
    with RunSet.open(run_dir, write=True) as runs:
        for run in runs:
            print(pipeline.atlas_stage(run, pages=parse_latents(latents), progress=reporter()))


@app.command(epilog=examples("glossator inspect run"))
def inspect(run_dir: RunDirs) -> None:
    """Say what a run directory holds: settings, stages, counts, scores."""
    with RunSet.open(run_dir) as runs:
        _inspect(runs)


app.command(name="neighbours", epilog=cli_neighbours.EPILOG)(cli_neighbours.neighbours_command)
app.command(name="types", epilog=cli_types.EPILOG)(cli_types.types_command)
app.command(name="cost", epilog=cli_cost.EPILOG)(cli_cost.cost_command)
app.command(name="compare", epilog=cli_compare.EPILOG)(cli_compare.compare_command)


@export.command(name="tables", epilog=examples("glossator export tables run tables"))
def export_tables_command(
    run_dir: RunDir,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder for the Parquet files.")],
) -> None:
    """Write every table of a run as Parquet, one file a table."""
    with Run.open(run_dir) as run:
        for path in export_tables(run, out, progress=reporter()):
            print(path)


def _version(value: bool) -> None:
    if value:
        print(f"glossator {__version__}")
        raise typer.Exit


@export.callback()
def _export(context: typer.Context) -> None:
    """Write a run's results for other tools."""
    help_without_command(context)


@app.callback()
def _main(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Explain and score every latent of a sparse autoencoder or transcoder."""
    help_without_command(context)


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 complete; 2 what the user can mend, after one line that says so; 3 finished with more
        missing than allowed; 130 interrupted. A traceback is a bug.
    """
    try:
        code = app(args=arguments, prog_name="glossator", standalone_mode=False)
    except GlossatorError as error:
        print(f"glossator: {error}", file=sys.stderr)
        return EXIT_INPUT
    except TyperException as error:
        line = " ".join(error.format_message().split()).rstrip(".")
        print(f"glossator: {line}; see `glossator --help`", file=sys.stderr)
        return EXIT_INPUT
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except OSError as error:
        if error.errno not in _MENDABLE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"glossator: {where}cannot be used ({os.strerror(error.errno)}); "
            "mend that and run the same command again: what was done is kept",
            file=sys.stderr,
        )
        return EXIT_INPUT
    except MemoryError:
        print(
            "glossator: not enough memory; free some, or take a smaller --coder or shorter "
            "documents, and run the same command again: what was done is kept",
            file=sys.stderr,
        )
        return EXIT_INPUT
    if code == EXIT_INTERRUPTED:
        print("glossator: interrupted; run the same command again to go on", file=sys.stderr)
    return code if isinstance(code, int) else EXIT_COMPLETE


if __name__ == "__main__":
    sys.exit(main())
